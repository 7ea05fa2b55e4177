"""An asynchronous run that is killed (signal 9) at random moments: no finished rollout is lost, no
problem is trained twice or never."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

STEPS, PROMPTS, SAMPLES = 10, 2, 4
RECIPE = f"""
model = "tiny"
task = "addition-1"
steps = {STEPS}
prompts_per_step = {PROMPTS}
samples_per_prompt = {SAMPLES}
schedule = "asynchronous"
checkpoint_every = 2
[asynchrony]
max_staleness = 3
[algorithm]
anchor = "rollout"
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def start(folder):
    (folder / "recipe.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "evolute.cli.main", "train", "rl", "recipe.toml"]
    return subprocess.Popen(
        [*command, "--run-dir", "run"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(path):
    """Whole records; a torn last line does not count."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def tokens(rollout):
    return rollout["problem_id"], rollout["index"], str(rollout["samples"])


def kill_after(process, run, name, dice):
    """Kill within some ms after a file of the run changed; False when the run ended before."""
    path = run / name
    before = path.stat().st_mtime_ns if path.exists() else 0
    while process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            break
        time.sleep(0.0005)
    time.sleep(dice.uniform(0, 0.05))
    alive = process.poll() is None
    process.kill()
    _, error = process.communicate(timeout=30)
    assert process.returncode in (0, -9), error
    return alive


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_was_finished_is_lost(tmp_path, seed):
    dice, run = random.Random(seed), tmp_path / "run"
    kept = {}
    for name in dice.sample(["pending.jsonl", "rollouts.jsonl", "rows.jsonl", "metrics.jsonl"], 3):
        if not kill_after(start(tmp_path), run, name, dice):
            break
        for record in lines(run / "pending.jsonl"):
            key = (record["row"], record["attempt"], record["rollout"]["index"])
            known = kept.setdefault(key, tokens(record["rollout"]))
            assert known == tokens(record["rollout"]), "a finished rollout was played again"
    process = start(tmp_path)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    used = [key for record in lines(run / "rows.jsonl") for key in record["used"]]
    assert sorted(row for row, _ in used) == list(range(STEPS * PROMPTS))
    trained = [tokens(rollout) for rollout in lines(run / "rollouts.jsonl")]
    assert len(trained) == STEPS * PROMPTS * SAMPLES
    rows = {tuple(key) for key in used}
    lost = [key for key, told in kept.items() if key[:2] in rows and told not in trained]
    assert not lost
    assert [r["step"] for r in lines(run / "metrics.jsonl")] == list(range(STEPS))
