"""`evolute watch` shows a run until it is stopped; `evolute track` sends what is new."""

import json
import signal
import subprocess
import sys

import httpx
from typer.testing import CliRunner

from evolute.cli import track

EVOLUTE = [sys.executable, "-m", "evolute.cli.main"]


def run_of(directory, steps):
    records = [{"kind": "train_step", "step": n, "reward_mean": n / 4} for n in range(steps)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "metrics.jsonl").write_text(text)


def test_a_run_is_shown_until_it_is_stopped(tmp_path):
    run_of(tmp_path, 2)
    words = [*EVOLUTE, "watch", str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready, url = process.stdout.readline().split()
            shown = httpx.get(url, timeout=30)
            missing = httpx.get(f"{url}/steps/7", timeout=30)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    assert ready == "ready" and url.endswith("/run")
    assert shown.status_code == 200 and "2 steps" in shown.text
    assert missing.status_code == 404 and "step 7" in missing.json()["error"]["message"]


def test_what_is_no_run_is_refused(tmp_path):
    for verb in (["watch", "gone"], ["track", str(tmp_path), "--to", "tensorboard"]):
        done = subprocess.run(
            [*EVOLUTE, *verb], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 2 and "name a run directory" in done.stderr, done.stderr


def test_figures_are_sent_and_the_next_time_only_what_is_new(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (2, 3):
        run_of(tmp_path, steps)
        words = [str(tmp_path), "--to", "tensorboard", "--json"]
        done = CliRunner().invoke(track.app, words)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout.splitlines()[-1])["records"] == {"tensorboard": steps}
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in found.Scalars("train/reward_mean")] == [0, 1, 2]
