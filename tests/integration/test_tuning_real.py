"""The system loop on the embedded model, from a bad start. Needs a quiet machine."""

import json
import subprocess
import sys

import pytest

TUNE = [sys.executable, "-m", "evolute.cli.main", "tune", "engine", "--json", "--trials", "10"]
BAD = ["--set", "max_running=1", "--set", "prefix_cache=false"]


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("by", ["random", "optuna"])
def test_a_bad_start_becomes_three_times_as_fast(tmp_path, by):
    run = subprocess.run(
        [*TUNE, "--by", by, *BAD], cwd=tmp_path, capture_output=True, text=True, timeout=2300
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["ratio"] and report["ratio"]["mean"] >= 3, run.stderr
    trials = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [t["id"] for t in trials] == list(range(11))
    assert "--set" in run.stderr  # the options that put the winner in force
