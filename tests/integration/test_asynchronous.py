"""Asynchronous runs on the tiny model: bits of the synchronous one, nothing lost, replayed."""

import asyncio
import dataclasses
import json

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.telemetry import read_records
from evolute.testing.waiting import until
from evolute.train import Controller, TrainConfig, Trainer
from evolute.train.control.pending import Pending
from evolute.train.rollouts import Journal
from evolute.train.settings import AsynchronyConfig

BASE = TrainConfig(
    model="tiny", task="addition-1", steps=4, prompts_per_step=2, samples_per_prompt=4, seed=2
)
FRESH = AsynchronyConfig(max_staleness=0)
STALE = AsynchronyConfig(max_staleness=2)
TINY = load_model("tiny")


@pytest.fixture(autouse=True)
def rewards(monkeypatch):
    """Contrast in every group, so that every step changes the weights."""
    from evolute.envs import arithmetic

    monkeypatch.setattr(arithmetic, "grade_number", lambda text, gold: float(len(text) % 3 == 0))


def of(schedule, asynchrony=None, **changes):
    chosen = {"asynchrony": asynchrony} if asynchrony else {}
    return dataclasses.replace(BASE, schedule=schedule, **chosen, **changes)


def trained(directory, config, steps=None):
    """The controller of a run that ends after `steps` steps, or with its last."""
    seen = []
    with Engine(TINY, page_size=4) as engine:
        run = Controller(config, directory, TINY, engine)
        asyncio.run(run.run(lambda r: seen.append(r), lambda: len(seen) == steps))
    return run


def journal(directory):
    return [
        (step, rollout.group, rollout.index, rollout.samples)
        for step, rollout in Journal(directory / "rollouts.jsonl").read()
    ]


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_without_staleness_it_has_the_bits_of_the_synchronous_run(tmp_path):
    whole = trained(tmp_path / "sync", BASE)
    fresh = trained(tmp_path / "async", of("asynchronous", FRESH))
    assert fresh.policy.lora.fingerprint() == whole.policy.lora.fingerprint()
    assert journal(tmp_path / "async") == journal(tmp_path / "sync")
    for key in ("fingerprint", "loss", "grad_norm", "reward_mean", "tokens"):
        pairs = zip(metrics(tmp_path / "async"), metrics(tmp_path / "sync"), strict=True)
        assert all(a[key] == b[key] for a, b in pairs), key


def test_stale_groups_carry_the_versions_of_their_tokens(tmp_path):
    trained(tmp_path, of("asynchronous", STALE, steps=6))
    records = metrics(tmp_path)
    assert [r["step"] for r in records] == list(range(6))
    assert max(r["staleness_max"] for r in records) >= 1
    assert all(r["submitted"] == r["accepted"] + r["filtered"] + r["num_running_groups"]
               for r in records)  # fmt: skip
    for step, rollout in Journal(tmp_path / "rollouts.jsonl").read():
        for sample in rollout.samples:
            versions = [segment.version for segment in sample.weight_versions]
            assert versions == sorted(versions) and versions[-1] <= step
            assert sum(v.num_tokens for v in sample.weight_versions) == sum(sample.loss_mask)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sorted(row for record in rows for row, _ in record["used"]) == list(range(12))


def test_a_replay_of_its_journal_has_its_bits(tmp_path):
    first = trained(tmp_path / "first", of("asynchronous", STALE, steps=6))
    again = trained(tmp_path / "again", of("synchronous", steps=6, replay=str(tmp_path / "first")))
    assert again.policy.lora.fingerprint() == first.policy.lora.fingerprint()


@pytest.mark.parametrize("schedule", ["one_step_off", "synchronous"])
def test_a_round_is_resumed_to_the_bit(tmp_path, schedule):
    whole = trained(tmp_path / "whole", of(schedule))
    trained(tmp_path / "cut", of(schedule), steps=2)
    again = trained(tmp_path / "cut", of(schedule))
    assert again.policy.lora.fingerprint() == whole.policy.lora.fingerprint()
    assert journal(tmp_path / "cut") == journal(tmp_path / "whole")


def test_one_step_off_samples_by_the_weights_before(tmp_path):
    trained(tmp_path, of("one_step_off"))
    found = {
        (step, segment.version)
        for step, rollout in Journal(tmp_path / "rollouts.jsonl").read()
        for sample in rollout.samples
        for segment in sample.weight_versions
    }
    assert found == {(0, 0), (1, 0), (2, 1), (3, 2)}


def test_finished_rollouts_of_a_stopped_run_are_used_by_the_next(tmp_path, monkeypatch):
    config = of("asynchronous", STALE, steps=6)
    with monkeypatch.context() as patched:
        update = Trainer.update

        def late(trainer, rollouts):
            """As long as nothing is finished ahead of it."""
            until(lambda: len(read_records(tmp_path / "pending.jsonl")) >= 8 + 4)
            return update(trainer, rollouts)

        patched.setattr(Trainer, "update", late)
        trained(tmp_path, config, steps=2)
    waiting = Pending(tmp_path / "pending.jsonl").read()
    used = {tuple(key) for key in metrics_rows(tmp_path)}
    left = [entry for entry in waiting if entry.key not in used]
    assert left, "nothing was finished ahead of the trainer"
    trained(tmp_path, config)
    kept = {
        (r.problem_id, r.index, r.samples) for _, r in Journal(tmp_path / "rollouts.jsonl").read()
    }
    assert all((e.rollout.problem_id, e.rollout.index, e.rollout.samples) in kept for e in left)
    assert sorted(row for row, _ in metrics_rows(tmp_path)) == list(range(12))


def metrics_rows(directory):
    lines = (directory / "rows.jsonl").read_text().splitlines()
    return [key for line in lines for key in json.loads(line)["used"]]


POINTS = ["journal", "update", "publish", "rows", "checkpoint"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("schedule", ["one_step_off", "asynchronous"])
def test_a_crash_between_any_two_parts_of_a_step_loses_and_doubles_nothing(
    tmp_path, monkeypatch, point, schedule
):
    config = of(schedule, STALE if schedule == "asynchronous" else None)
    with monkeypatch.context() as patched:
        crash(patched, point, at=2)
        with pytest.raises(OSError, match="crash"):
            trained(tmp_path / "cut", config)
    again = trained(tmp_path / "cut", config)
    used = sorted(row for row, _ in metrics_rows(tmp_path / "cut"))
    assert used == list(range(BASE.steps * BASE.prompts_per_step))
    assert len(journal(tmp_path / "cut")) == len(used) * BASE.samples_per_prompt
    assert [r["step"] for r in metrics(tmp_path / "cut")] == list(range(BASE.steps))
    if schedule == "one_step_off":
        whole = trained(tmp_path / "whole", config)
        assert again.policy.lora.fingerprint() == whole.policy.lora.fingerprint()


def crash(patched, point, at):
    """Raise the `at`-th time that the run comes to this point."""
    from evolute.train import checkpoint
    from evolute.train.control import records, run

    seen = []

    def dying(real):
        def call(*args, **more):
            seen.append(point)
            if len(seen) == at:
                raise OSError("crash")
            return real(*args, **more)

        return call

    owner, name = {
        "journal": (records.RunRecords, "journal"),
        "update": (run.Trainer, "update"),
        "publish": (run._Weights, "publish"),
        "rows": (records.RunRecords, "_write_rows"),
        "checkpoint": (checkpoint, "save"),
    }[point]
    patched.setattr(owner, name, dying(getattr(owner, name)))
