"""The ledger is JSON that any reader takes, also where an interval has no end."""

import json
import math

from evolute.cli.options import emit
from evolute.dashboard.run import interval
from evolute.envs.tuning import Ratio, Verdict
from evolute.evolve.ledger import Ledger, Trial


def strict(text):
    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_an_interval_without_an_end_comes_back(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ratio = Ratio(1.5, 0.0, math.inf, 1)
    trial = Trial(1, 0, "random", {}, "digest", Verdict.DISCARD, "one pair", ratio, 2.0)
    ledger.append(trial)
    record = strict(ledger.path.read_text())
    assert record["ratio"]["high"] is None
    assert Ledger(ledger.path).trials == [trial]
    shown = interval(record["ratio"], "speed")
    assert (shown.low, shown.high) == (0.0, math.inf)


def test_the_last_line_of_stdout_is_json(capsys):
    emit({"a": math.inf, "b": [math.nan, 1.5], "c": {"d": -math.inf}})
    assert strict(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": None}}
