"""The command line as a user meets it."""

import json
import subprocess
import sys

import pytest


def evolute(*arguments, cwd=None):
    command = [sys.executable, "-m", "evolute.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=100)


@pytest.mark.parametrize(
    "verb",
    ["loop", "serve", "generate", "chat", "train", "eval", "tune", "bench", "trace", "doctor"],
)
def test_every_verb_is_listed(verb):
    from evolute.cli.main import VERBS

    assert verb in VERBS


def test_a_misspelt_verb_is_a_usage_error():
    run = evolute("genrate")
    assert run.returncode == 2 and "Did you mean 'generate'" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--model", "nothing", "x"], "no model 'nothing'"),
        (["generate", "--model", "tiny", "-s", "page_sise=1", "x"], "Did you mean 'page_size'"),
        (["generate", "--model", "tiny", "--adapter", "gone", "x"], "adapter_config.json"),
        (["loop", "--resume", "gone"], "does not exist"),
        (["train", "rl", "gone.toml"], "does not exist"),
        (["trace", "gone"], "metrics.jsonl"),
    ],
)
def test_bad_input_is_one_line_that_names_the_fix(arguments, message, tmp_path):
    run = evolute(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert message in run.stderr and "Traceback" not in run.stderr


def test_generate_is_greedy_and_repeatable():
    first, second = (
        json.loads(
            evolute(
                "generate", "--model", "tiny", "--temperature", "0", "--json", "hello"
            ).stdout.splitlines()[-1]
        )
        for _ in range(2)
    )
    assert first == second and first["prompt_tokens"] == 5


@pytest.mark.timeout(300)
def test_the_main_job_runs_to_its_report(tmp_path):
    small = "train.model=tiny train.task=addition-1 train.steps=2 eval_count=8"
    small += " tune.trials=1 tune.pairs=2"
    options = [part for one in small.split() for part in ("--set", one)]
    run = subprocess.run(
        [sys.executable, "-m", "evolute.cli.main", "loop", "--name", "r", "--json", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["finished"]
    trials = (tmp_path / "runs" / "r" / "ledger.jsonl").read_text().splitlines()
    assert len(trials) == 2 and not any("baseline itself failed" in one for one in trials)
    page = (tmp_path / "runs" / "r" / "report.html").read_text()
    for part in ("Accuracy", "Training", "Publications", "Tuning", "Settings", "0 errors"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org", "")
