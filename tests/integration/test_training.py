"""A run on the tiny model: resumable at every step, and bit-equal when it is."""

import asyncio
import dataclasses
import json
import os
import sys
import threading

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.train import Controller, TrainConfig, checkpoint
from evolute.train.rollouts import Journal
from evolute.types import CheckpointError

CONFIG = TrainConfig(
    model="tiny", task="addition-1", steps=4, prompts_per_step=2, samples_per_prompt=4, seed=2
)
TINY = load_model("tiny")


def controller(directory, engine, config=CONFIG):
    return Controller(config, directory, TINY, engine)


def reward_by_length(monkeypatch):
    """Contrast in every group, so that every step changes the weights."""
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    reward_by_length(monkeypatch)
    with Engine(TINY, page_size=4) as engine:
        whole = controller(tmp_path / "whole", engine)
        asyncio.run(whole.run())
        first = controller(tmp_path / "cut", engine)
        seen = []
        asyncio.run(first.run(lambda r: seen.append(r.step), lambda: len(seen) == 2))
        journal = Journal(tmp_path / "cut" / "rollouts.jsonl")
        journal.append(2, [rollout for _, rollout in journal.read()][:3])  # a step cut in two
        with journal.path.open("a") as file:
            file.write('{"step": 3, "torn')
        second = controller(tmp_path / "cut", engine)
        asyncio.run(second.run())
    assert whole.policy.lora.fingerprint() == second.policy.lora.fingerprint()
    records = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == [0, 1, 2, 3]
    steps = [step for step, _ in journal.read()]
    assert steps == [step for step in range(4) for _ in range(8)]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch, caplog):
    reward_by_length(monkeypatch)
    with Engine(TINY, page_size=4) as engine:
        run = controller(tmp_path, engine)
        asyncio.run(run.run())
        newest = sorted((tmp_path / "checkpoints").glob("step_*"))[-1]
        (newest / "state.safetensors").write_bytes(b"torn")
        again = controller(tmp_path, engine)
        assert checkpoint.load(tmp_path / "checkpoints", again.trainer, again.digest) == 2
    assert "damaged" in caplog.text


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    with Engine(TINY, page_size=4) as engine:
        asyncio.run(controller(tmp_path, engine).run())

        other = controller(tmp_path, engine, dataclasses.replace(CONFIG, temperature=0.5))
        with pytest.raises(CheckpointError, match="other settings"):
            asyncio.run(other.run())


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    with Engine(TINY, page_size=4) as engine:
        run = controller(tmp_path, engine)
        asyncio.run(run.run())

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match="MB free"):
            checkpoint.save(tmp_path / "checkpoints", 9, run.trainer, run.digest)
        assert checkpoint.load(tmp_path / "checkpoints", run.trainer, run.digest) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="niceness by thread is Linux's")
def test_updates_step_back_and_nothing_else_does(tmp_path):
    with Engine(TINY, page_size=4) as engine:
        run = controller(tmp_path, engine, dataclasses.replace(CONFIG, update_nice=7))
        seen = []
        update = run.trainer.update

        def spy(rollouts):
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return update(rollouts)

        run.trainer.update = spy
        before = os.getpriority(os.PRIO_PROCESS, 0)
        asyncio.run(run.run())
    assert set(seen) == {7} and os.getpriority(os.PRIO_PROCESS, 0) == before
