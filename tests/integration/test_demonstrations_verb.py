"""From the command line: a teacher's answers -> traces -> perturbed rows -> a trained student."""

import json

import pytest
from typer.testing import CliRunner

from evolute.cli.demonstrations import app
from evolute.models import load_model
from evolute.train.sft import read

TASK = "chain-with-traps?steps=3-5&traps=1-2&modulus=10"


def run(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def traces(tmp_path):
    raw, out = tmp_path / "raw.jsonl", tmp_path / "traces.jsonl"
    options = ("--scripted", "--wrong", 0.4, "--count", 60, "--samples", 2, "--out", raw, "--json")
    assert run("sample", TASK, *options)["made"] == 120
    assert run("sample", TASK, *options)["there"] == 120
    counts = run("verify", TASK, raw, "--out", out, "--steps", "paragraphs", "--json")
    assert counts["right"] + counts["wrong"] == 120 and counts["rejected"] == 0
    assert 30 < counts["wrong"] < 66 and counts["kept"] == len(lines(out))
    assert len(lines(tmp_path / "traces.wrong.jsonl")) == counts["wrong"]
    return out


def test_the_whole_way(traces, tmp_path):
    rows = {}
    for kind, more in {
        "none": (),
        "shuffle": (),
        "delete": ("--set", "pad=true"),
        "insert": ("--set", "domain=same"),
        "corrupt_digits": ("--set", "within=both"),
        "drop_keywords": (),
        "wrong_answers": ("--pool", tmp_path / "traces.wrong.jsonl"),
    }.items():
        out = tmp_path / f"{kind}.jsonl"
        report = run("perturb", traces, "--out", out, "--kind", kind, *more, "--json")
        rows[kind] = [r["conversations"][-1]["value"] for r in lines(out)]
        assert report["rows"] == len(rows[kind]) == len(lines(traces))
        assert len(read(out, load_model("tiny").tokenizer, "last")) == len(rows[kind])
        again = tmp_path / "again.jsonl"
        run("perturb", traces, "--out", again, "--kind", kind, *more, "--json")
        assert again.read_bytes() == out.read_bytes()
    assert len({tuple(texts) for texts in rows.values()}) == 7
    assert all(r["role"] in ("PLAN", "STEP") for r in lines(traces)[0]["steps"][:2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", TASK), "name one teacher"),
        (("sample", TASK, "--model", "tiny", "--wrong", "0.5"), "--wrong is the scripted"),
        (("verify", TASK, "raw.jsonl", "--steps", "break"), "Did you mean 'breaks'"),
        (("verify", "addition-1", "raw.jsonl"), "not to 'addition-1'"),
        (("verify", TASK, "gone.jsonl"), "no file of"),
        (("perturb", "traces.jsonl", "--kind", "shufle"), "Did you mean 'shuffle'"),
        (("perturb", "traces.jsonl", "--kind", "wrong_answers"), "needs --pool"),
        (("perturb", "traces.jsonl", "--set", "pad=true"), "--kind none"),
        (("perturb", "raw.jsonl"), "no trace"),
        (("perturb", "traces.jsonl", "--kind", "delete", "--set", "pad"), "no '='"),
    ],
)
def test_bad_words_are_refused_with_the_fix(traces, tmp_path, monkeypatch, words, message):
    from evolute.types import EvoluteError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvoluteError, match=r"(?s).*") as caught:
        run(*words)
    assert message in str(caught.value)
