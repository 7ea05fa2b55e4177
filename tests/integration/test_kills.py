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
STEPS, TRIALS = 8, 1
CONFIG = """
eval_count = 8
train = {{ model = "tiny", task = "addition-1", steps = {steps}, prompts_per_step = 4 }}
tune = {{ trials = {trials}, pairs = 2, requests = 4 }}
engine = {{ page_size = 4 }}
"""
MOMENTS = (  # files of the run: a kill comes within so many seconds after one of them changed
    ("checkpoints/.*", 0.02),  # within the writing of a checkpoint
    ("rollouts.jsonl", 0.2),  # update, publication, records
    ("ledger.jsonl", 3.0),  # a trial
    ("*", 4.0),  # loading
    ("checkpoints/*", 0.02),  # the pointer, and old ones that are deleted
    ("state.json", 0.05),  # the end of a phase, its records
    ("metrics.jsonl", 0.1),
    ("workload.*", 0.02),
)
ONCE = ("eval base", "eval trained", "difference", "throughput")
ONCE += tuple(f"phase {name}" for name in ("base", "train", "trained", "difference", "tune"))


def start(folder, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*LOOP, *arguments], cwd=folder, env=environment, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def first(folder, trials=TRIALS):
    (folder / "c.toml").write_text(CONFIG.format(steps=STEPS, trials=trials))
    return ("--name", "run", "--config", "c.toml")


def again(folder):
    """Resume, or start anew when the kill came before there was a run."""
    return ("--resume", "run") if (folder / "runs" / "run").exists() else first(folder)


def kill_after(process, run, pattern, spread_s, dice):
    """Kill within `spread_s` seconds after a file changed; False when the run ended before."""
    before = stamps(run, pattern)
    while process.poll() is None and stamps(run, pattern) == before:
        time.sleep(0.001)
    time.sleep(dice.uniform(0.0, spread_s))
    ended = process.poll()
    process.kill()
    _, error = process.communicate(timeout=30)
    assert ended in (None, 0), error
    return ended is None


def stamps(run, pattern):
    found = []
    for path in run.glob(pattern):
        try:
            found.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return sorted(found)


def finish(folder, arguments):
    process = start(folder, *arguments)
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


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("kills", "seed"), [(1, 1), pytest.param(20, 0, marks=pytest.mark.slow)], ids=["1", "20"]
)
def test_a_killed_run_goes_on(tmp_path, kills, seed):
    cut, whole, dice = tmp_path / "cut", tmp_path / "whole", random.Random(seed)
    cut.mkdir(), whole.mkdir()
    finish(whole, first(whole, trials=0))  # of trials only their presence is compared
    run, done, tries = cut / "runs/run", 0, 0
    while done < kills:
        pattern, spread_s = MOMENTS[tries % len(MOMENTS)]
        done += kill_after(start(cut, *again(cut)), run, pattern, spread_s, dice)
        tries += 1
        assert tries < 3 * kills + len(MOMENTS), "the moments never came"
        await_the_end_of_trials(cut)
        if (run / "report.html").exists() and done < kills:
            finish(cut, again(cut))
            check(run, whole / "runs/run")  # go on with another
            run.rename(cut / f"done{tries}")
    finish(cut, again(cut))
    check(run, whole / "runs/run")


def await_the_end_of_trials(folder):
    for _ in range(100):
        if not processes_of(folder):
            return
        time.sleep(0.1)
    raise AssertionError("a trial outlived its parent")


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
