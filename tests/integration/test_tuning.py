"""The system loop with plants: a good change is kept, a cheat thrown out, a crash passed over."""

import asyncio
import dataclasses
import random
import sys

import pytest

from evolute.bench import make_workload, save_workload
from evolute.engine import EngineConfig
from evolute.envs.tuning import (
    Dimension,
    Judge,
    Measurement,
    Space,
    SubprocessRunner,
    Verdict,
)
from evolute.evolve import Ledger, ScriptedProposer, tune

SPACE = Space(
    (Dimension("speed", (1, 2, 3)), Dimension("mode", ("fair", "cheat", "crash", "hang")))
)
FAKE = """
import json, sys, time
given = dict(a[6:].split("=") for a in sys.argv[1:] if a.startswith("--set="))
mode = given.get("mode", "fair")
if mode == "crash": sys.exit("planted crash")
if mode == "hang": time.sleep(60)
speed = 100.0 * int(given.get("speed", 1)) * (5 if mode == "cheat" else 1)
digest = "other" if mode == "cheat" else "same"
print(json.dumps({"figures": {"output_tokens_per_s": speed}, "digest": digest}))
"""


@pytest.fixture
def workload(tmp_path):
    file = tmp_path / "workload.jsonl"
    file.write_text("")
    return file


def run(tmp_path, workload, changes, timeout_s=20.0):
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    runner = SubprocessRunner("tiny", workload, {}, (sys.executable, str(script)), timeout_s)
    judge = Judge(runner, workload, pairs=2)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    report = asyncio.run(
        tune(SPACE, judge, [ScriptedProposer(changes)], ledger, max_trials=len(changes))
    )
    return report, ledger


def test_plants(tmp_path, workload):
    changes = [{"mode": "cheat"}, {"mode": "crash"}, {"speed": 2}, {"speed": 9}, {"speed": 1}]
    report, ledger = run(tmp_path, workload, changes)
    verdicts = [trial.verdict for trial in ledger.trials]
    assert verdicts == ["keep", "cheat", "crash", "keep", "crash", "discard"]
    assert "planted crash" in ledger.trials[2].why
    assert report.best == {"speed": 2}
    assert report.ratio.mean == pytest.approx(2.0)
    assert Ledger(ledger.path).trials == ledger.trials


def test_a_hang_is_ended(tmp_path, workload):
    _, ledger = run(tmp_path, workload, [{"mode": "hang"}], timeout_s=1.5)
    assert ledger.trials[1].verdict is Verdict.CRASH
    assert "within" in ledger.trials[1].why


def test_nothing_better_is_a_result(tmp_path, workload):
    report, _ = run(tmp_path, workload, [{"mode": "fair"}])
    assert report.best is None


class Noise:
    """No change does anything; only the weather differs."""

    def __init__(self, noise, gain=1.0):
        self.source, self.noise, self.gain, self.count = random.Random(0), noise, gain, 0

    async def measure(self, change):
        self.count += 1
        speed = 100 * (self.gain if change else 1.0)
        return Measurement(speed * self.source.lognormvariate(0, self.noise), "same")


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
def test_noise_is_seldom_kept(workload, noise):
    judge = Judge(Noise(noise), workload, pairs=4)

    async def rate():
        verdicts = [(await judge.judge({}, {"speed": 2})).verdict for _ in range(400)]
        return verdicts.count(Verdict.KEEP) / len(verdicts)

    assert asyncio.run(rate()) < 0.04


def test_a_large_gain_is_measured_again_before_noise_hides_it(workload):
    async def kept(noise):
        verdicts = [(await Judge(noise, workload).judge({}, {"x": 1})).verdict for _ in range(200)]
        return verdicts.count(Verdict.KEEP) / len(verdicts)

    loud, quiet = Noise(0.2, gain=2.0), Noise(0.01, gain=2.0)
    assert asyncio.run(kept(loud)) > 0.85
    assert asyncio.run(kept(quiet)) == 1 and quiet.count == 200 * 2 * 3


@pytest.mark.parametrize("weights", [(), ("ann=2", "bob=0.5")])
def test_a_trial_runs_with_every_setting_of_the_running_system(workload, weights):
    save_workload(make_workload("shared", 256, scale=0.02), workload)
    config = EngineConfig(tenant_weights=weights, memory_mb=8, num_threads=1)
    runner = SubprocessRunner("tiny", workload, dataclasses.asdict(config))
    found = asyncio.run(runner.measure({"page_size": 4}))
    assert found.error is None and found.tokens_per_s > 0 and len(found.digest) == 64
