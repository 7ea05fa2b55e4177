"""A checkpoint killed at any of its system calls, or by a full disk, leaves the one before."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch

from evolute.models import load_model
from evolute.train import TrainConfig, Trainer, checkpoint
from evolute.train.trainer import make_policy
from evolute.types import CheckpointError

CONFIG = TrainConfig(model="tiny", task="addition-1", steps=4)
TINY = load_model("tiny")
CALLS = (  # all that `save` does to the disk, by where it finds it
    (checkpoint, "save_file"),
    (checkpoint.os, "replace"),
    (checkpoint.os, "fsync"),
    (checkpoint.os, "open"),
    (checkpoint.shutil, "rmtree"),
    (Path, "mkdir"),
    (Path, "write_text"),
)


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


class Faults:
    """Kills before, in the middle of, or after the call with a number; counts all the same."""

    def __init__(self, patch, at, when):
        self.count, self.at, self.when = 0, at, when
        for owner, name in CALLS:
            patch.setattr(owner, name, self._wrap(getattr(owner, name), name))

    def _wrap(self, real, name):
        def call(*arguments, **named):
            self.count += 1
            is_due = self.count == self.at
            if is_due and self.when == "before":
                raise Killed
            result = real(*arguments, **named)
            if is_due and self.when == "within":
                _tear(name, arguments)
            if is_due:
                raise Killed
            return result

        return call


def _tear(name, arguments):
    """What was written is half there."""
    path = {"save_file": lambda: arguments[1], "write_text": lambda: arguments[0]}.get(name)
    if path:
        os.truncate(path(), Path(path()).stat().st_size // 2)


def trainer(value):
    """A trainer whose weights, moments and count are told apart by `value`."""
    made = Trainer(make_policy(TINY, CONFIG), CONFIG)
    for parameter in made.policy.parameters():
        parameter.data.fill_(value)
        moments = {"exp_avg": parameter.data.clone(), "exp_avg_sq": parameter.data.clone()}
        made.optimizer.state[parameter] = {"step": torch.tensor(value), **moments}
    made.num_updates = int(value)
    return made


def what_is_loaded(folder):
    fresh = trainer(0.0)
    step = checkpoint.load(folder, fresh, "digest")
    values = {float(v) for p in fresh.policy.parameters() for v in p.detach().aminmax()}
    values |= {float(fresh.optimizer.state[p]["step"]) for p in fresh.policy.parameters()}
    return step, values, fresh.num_updates


def num_calls(folder):
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, 0, "before")
        checkpoint.save(folder, 2, trainer(2.0), "digest")
    return faults.count


@pytest.mark.parametrize("when", ["before", "within", "after"])
@pytest.mark.parametrize("left", [[], [2]], ids=["new", "redone"])
def test_a_kill_at_any_call_leaves_a_whole_checkpoint(tmp_path, when, left):
    (tmp_path / "count").mkdir()
    total, seen = num_calls(tmp_path / "count"), set()
    assert total > 12, "the calls are seen"
    for at in range(1, total + 1):
        folder = tmp_path / str(at)
        checkpoint.save(folder, 1, trainer(1.0), "digest", keep=3)
        for step in left:  # of a run that was killed between the folder and its pointer
            shutil.copytree(folder / "step_000001", folder / f"step_{step:06d}")
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, at, when)
            with pytest.raises(Killed):
                checkpoint.save(folder, 2, trainer(2.0), "digest", keep=3)
        step, values, updates = what_is_loaded(folder)
        assert values == {float(step)} and updates == step, f"call {at}"
        seen.add(step)
        checkpoint.save(folder, 3, trainer(3.0), "digest", keep=3)
        assert what_is_loaded(folder)[0] == 3
    assert seen == {1, 2}, "some kills come before the pointer and some after"


@pytest.mark.parametrize("damage", ["empty", "gone", "nonsense"])
def test_a_pointer_that_was_lost_costs_nothing(tmp_path, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, trainer(float(step)), "digest")
    pointer = tmp_path / "latest"
    if damage == "gone":
        pointer.unlink()
    else:
        pointer.write_text({"empty": "", "nonsense": "\x00\x00"}[damage])
    assert what_is_loaded(tmp_path) == (2, {2.0}, 2)


@pytest.mark.parametrize("file", ["meta.json", "state.safetensors"])
@pytest.mark.parametrize("size", [0, 10, 0.5])
def test_a_torn_file_gives_way_to_the_checkpoint_before(tmp_path, file, size):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, trainer(float(step)), "digest")
    path = tmp_path / "step_000002" / file
    os.truncate(path, int(path.stat().st_size * size) if 0 < size < 1 else size)
    assert what_is_loaded(tmp_path) == (1, {1.0}, 1)


def test_no_whole_checkpoint_is_told_and_not_trained_over(tmp_path):
    checkpoint.save(tmp_path, 1, trainer(1.0), "digest")
    (tmp_path / "step_000001" / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"whole.*delete the directory"):
        checkpoint.load(tmp_path, trainer(0.0), "digest")


@pytest.fixture
def small_files():
    """The system itself refuses what is larger than 64 kB, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_system_cannot_write_is_told_and_harms_nothing(tmp_path, request):
    checkpoint.save(tmp_path, 1, trainer(1.0), "digest")
    request.getfixturevalue("small_files")
    with pytest.raises(CheckpointError, match=r"could not be written.*MB free.*last one is whole"):
        checkpoint.save(tmp_path, 2, trainer(2.0), "digest")
    assert what_is_loaded(tmp_path) == (1, {1.0}, 1)
    assert not list(tmp_path.glob(".step*")), "nothing is left behind on a full disk"
