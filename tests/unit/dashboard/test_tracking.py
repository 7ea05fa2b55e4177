"""A run's figures reach each tracker once, in order, whatever fails between."""

import json
import sys

import pytest

from evolute.dashboard.tracking import TRACKERS, check, follow
from evolute.telemetry import RecordWriter
from evolute.types import ConfigError


class Recorder:
    """Keeps what it is sent; fails at the steps it is told to."""

    def __init__(self, run_dir, settings, token):
        self.settings, self.begun_with, self.token = settings, token, token or "its id"
        self.sent, self.fails_at, self.is_closed = [], set(), False

    def log(self, step, values):
        if step in self.fails_at:
            raise ConnectionError("nobody there")
        self.sent.append((step, dict(values)))

    def close(self):
        self.is_closed = True


@pytest.fixture
def made(monkeypatch):
    found = []

    def make(*arguments):
        found.append(Recorder(*arguments))
        return found[-1]

    monkeypatch.setitem(TRACKERS, "tensorboard", make)
    return found


def write(run_dir, *records):
    with RecordWriter(run_dir / "metrics.jsonl") as writer:
        for record in records:
            writer.write(record)


def step(number, **values):
    return {"kind": "train_step", "step": number, **values}


def test_steps_are_sent_once_and_a_run_that_goes_on_sends_the_rest(tmp_path, made):
    (tmp_path / "config.toml").write_text("seed = 3\n[optimizer]\nlr = 0.5\n")
    write(tmp_path, step(0, reward_mean=0.5, fingerprint="ab", ok=True, far=float("nan")))
    with follow(tmp_path, ["tensorboard"]) as following:
        following.update()
        following.update()
        write(tmp_path, step(1, reward_mean=0.75))
    with follow(tmp_path, ["tensorboard"]) as following:
        write(tmp_path, step(2, reward_mean=1))
        following.update()
    first, second = made
    assert first.sent == [(0, {"train/reward_mean": 0.5}), (1, {"train/reward_mean": 0.75})]
    assert second.sent == [(2, {"train/reward_mean": 1.0})]
    assert (first.begun_with, second.begun_with) == ("", "its id")
    assert first.settings == {"seed": 3, "optimizer.lr": 0.5} and first.is_closed


def test_an_evaluation_counts_for_the_step_before_it(tmp_path, made):
    base, trained = (
        {"kind": "eval", "name": n, "mean": m, "low": 0} for n, m in (("a", 0), ("b", 1))
    )
    write(tmp_path, base, step(0, loss=1), step(1, loss=2), trained, {"kind": "phase", "name": "x"})
    with follow(tmp_path, ["tensorboard"]):
        pass
    assert [s for s, _ in made[0].sent] == [0, 0, 1, 1]
    assert made[0].sent[-1][1] == {"eval/b/mean": 1.0, "eval/b/low": 0.0}


def test_what_could_not_be_sent_is_sent_later_and_the_run_goes_on(tmp_path, made, caplog):
    write(tmp_path, *(step(i, loss=i) for i in range(4)))
    with follow(tmp_path, ["tensorboard"]) as following:
        made[0].fails_at = {2}
        following.update()
        following.update()
        assert [s for s, _ in made[0].sent] == [0, 1]
        assert caplog.text.count("nobody there") == 1  # told once, not at each step
        made[0].fails_at = set()
    assert [s for s, _ in made[0].sent] == [0, 1, 2, 3]


def test_steps_that_are_done_again_after_a_kill_take_their_old_places(tmp_path, made):
    write(tmp_path, *(step(i, loss=i) for i in range(3)))
    with follow(tmp_path, ["tensorboard"]):
        pass
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[0])  # as a run cuts what has no checkpoint
    with follow(tmp_path, ["tensorboard"]) as following:
        following.update()
        write(tmp_path, step(1, loss=1), step(2, loss=2))
    assert [s for s, _ in made[1].sent] == [1, 2]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tensorboard": 3}'])
def test_a_damaged_note_of_what_was_sent_only_sends_again(tmp_path, made, text):
    write(tmp_path, step(0, loss=1))
    (tmp_path / "tracked.json").write_text(text)
    with follow(tmp_path, ["tensorboard"]):
        pass
    assert len(made[0].sent) == 1
    assert json.loads((tmp_path / "tracked.json").read_text())["tensorboard"]["sent"] == 1


def test_what_cannot_be_sent_to_is_refused_with_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match="wandb"):
        check(["wandbb"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        check(["wandb"])


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for number in range(2):  # twice: the run went on
        write(tmp_path, step(number, reward_mean=number / 2))
        with follow(tmp_path, ["tensorboard"]):
            pass
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = [(e.step, e.value) for e in found.Scalars("train/reward_mean")]
    assert points == [(0, 0.0), (1, 0.5)]
