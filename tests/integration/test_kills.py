"""Killed at any moment, a run goes on where it was: no step is lost, none is done twice."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

LOOP = [sys.executable, "-m", "evolute.cli.main", "loop"]
STEPS, TRIALS = 12, 2
CONFIG = f"""
eval_count = 8
train = {{ model = "tiny", task = "addition-1", steps = {STEPS}, prompts_per_step = 4 }}
tune = {{ trials = {TRIALS}, pairs = 2, requests = 8 }}
engine = {{ page_size = 4 }}
"""
ONCE = ("eval base", "eval trained", "difference", "throughput")
ONCE += tuple(f"phase {name}" for name in ("base", "train", "trained", "difference", "tune"))


def start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*LOOP, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def first(folder):
    (folder / "c.toml").write_text(CONFIG)
    return ("--name", "run", "--config", "c.toml")


def again(folder):
    """Resume, or start anew when the kill came before there was a run."""
    return ("--resume", "run") if (folder / "runs" / "run").exists() else first(folder)


def kill_at_random(process, dice):
    """While it loads (one in four), or within seconds of its server's start."""
    if dice.random() < 0.25:
        time.sleep(dice.uniform(0.0, 3.0))
    else:
        for line in process.stderr:
            if line.startswith("serving"):
                break
        time.sleep(dice.uniform(0.0, 3.0))
    ended = process.poll()
    process.kill()
    _, error = process.communicate(timeout=30)
    assert ended in (None, 0), error
    return ended is None


def finish(folder):
    process = start(folder, *again(folder))
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error


def records(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def check(run, whole):
    """Everything exactly once, and what was trained equals the uninterrupted run's."""
    metrics, expected = records(run, "metrics.jsonl"), records(whole, "metrics.jsonl")
    steps, uncut = (
        [r for r in found if r["kind"] == "train_step"] for found in (metrics, expected)
    )
    assert [r["step"] for r in steps] == list(range(STEPS))
    for key in ("fingerprint", "reward_mean", "loss", "version"):
        assert [r[key] for r in steps] == [r[key] for r in uncut]
    count = Counter(f"{r['kind']} {r.get('name', '')}".strip() for r in metrics)
    assert {name: count[name] for name in ONCE} == dict.fromkeys(ONCE, 1)
    rollouts = Counter(r["step"] for r in records(run, "rollouts.jsonl"))
    assert rollouts == Counter(r["step"] for r in records(whole, "rollouts.jsonl"))
    samples = [(r["step"], r["text"]) for r in records(run, "samples.jsonl")]
    assert samples == [(r["step"], r["text"]) for r in records(whole, "samples.jsonl")]
    assert [r["id"] for r in records(run, "ledger.jsonl")] == list(range(TRIALS + 1))
    for name in ("adapter/adapter_model.safetensors", "report.html"):
        assert (run / name).stat().st_size > 0
    saved = (run / "adapter/adapter_model.safetensors").read_bytes()
    assert saved == (whole / "adapter/adapter_model.safetensors").read_bytes()


def processes_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = (path / "cwd").resolve() == folder.resolve()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if here and b"evolute" in command:
            found.append(command)
    return found


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 1), pytest.param(20, 0, marks=pytest.mark.slow)], ids=["3", "20"]
)
def test_a_killed_run_goes_on(tmp_path, kills, seed):
    cut, whole, dice = tmp_path / "cut", tmp_path / "whole", random.Random(seed)
    cut.mkdir(), whole.mkdir()
    done = 0
    while done < kills:
        done += kill_at_random(start(cut, *again(cut)), dice)
        for _ in range(50):
            if not processes_of(cut):
                break
            time.sleep(0.1)
        assert not processes_of(cut), "a trial outlived its parent"
        if (cut / "runs/run/report.html").exists() and done < kills:
            check(cut / "runs/run", _whole(whole))  # it was done before; go on with another
            (cut / "runs/run").rename(cut / f"done{done}")
    finish(cut)
    check(cut / "runs/run", _whole(whole))


def _whole(folder):
    if not (folder / "runs/run/report.html").exists():
        finish(folder)
    return folder / "runs/run"


def test_a_run_that_is_in_use_is_refused(tmp_path):
    process = start(tmp_path, *first(tmp_path))
    try:
        for line in process.stderr:
            if line.startswith("serving"):
                break
        other = start(tmp_path, "--resume", "run")
        _, error = other.communicate(timeout=60)
        assert other.returncode and f"in use by process {process.pid}" in error
        assert "Traceback" not in error
    finally:
        process.kill()
        process.communicate(timeout=30)
