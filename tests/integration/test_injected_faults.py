"""200 faults in a run of 100 steps on virtual time: it ends, each is accounted for, nothing is
biased, and whatever was dispatched left exactly once."""

import asyncio
import random
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pytest

from evolute.telemetry.virtual_time import run_virtual
from evolute.train.control.asynchronous import Asynchronous
from evolute.train.control.cap import Pressure
from evolute.train.control.episodes import Episodes
from evolute.train.control.parts import Parts
from evolute.train.control.pending import Pending
from evolute.train.control.rows import restore
from evolute.train.control.synchronous import OneStepOff, Synchronous
from evolute.train.control.watchdog import Waits
from evolute.train.failures import class_of
from evolute.train.settings import AsynchronyConfig, TrainConfig
from evolute.train.simulation.sides import NumberedProblems, SimulatedRecords
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import (
    BackendError,
    Outcome,
    RewardError,
    Rollout,
    ToolError,
    TrainingError,
    TrainingSample,
    VersionSegment,
)

STEPS, PROMPTS, SAMPLES, FAULTS = 100, 4, 4, 200
KINDS = ("tool", "grader", "engine", "hang", "straggler", "bug", "failed")
CLASS = {
    "tool": "environment",
    "grader": "grader",
    "engine": "engine",
    "hang": "timeout",
    "bug": "other",
    "failed": "environment",
}


@dataclass
class FaultyPlayer:
    """Every `tries`-th call fails in one of many ways; rewards follow from the seed alone."""

    faults: dict[int, str]
    calls: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    version: int = 0

    async def play(self, problem, *, group, index, seed):
        fault = self.faults.get(self.calls)
        self.calls += 1
        if fault:
            self.injected[fault] += 1
        source = random.Random(f"{problem.id}/{index}")
        seconds, reward = source.lognormvariate(3, 1), float(source.random() < 0.4)
        begun = self.version
        if fault in ("tool", "grader", "engine", "bug"):
            await asyncio.sleep(seconds / 2)
            raise {
                "tool": ToolError("no"), "grader": RewardError("no"),
                "engine": BackendError("it died in the middle of a turn"), "bug": KeyError("x"),
            }[fault]  # fmt: skip
        if fault == "hang":
            await asyncio.Event().wait()
        await asyncio.sleep(seconds * (100 if fault == "straggler" else 1))
        segments = [VersionSegment(begun, 1)]
        if self.version != begun:
            segments.append(VersionSegment(self.version, 1))
        sample = TrainingSample((), (), (), (), tuple(segments))
        if fault == "failed":
            return Rollout(
                problem.id, group, index, 0.0, Outcome.FAILED, (), failure="SandboxError"
            )
        return Rollout(problem.id, group, index, reward, Outcome.DONE, (sample,))


@dataclass
class Sides:
    player: FaultyPlayer
    lost_at: int = -1

    async def update(self, rollouts):
        await asyncio.sleep(60)
        return UpdateReport(0, {"update_s": 60.0})

    async def publish(self, version):
        await asyncio.sleep(1)
        if version == self.lost_at:
            raise TrainingError("the weights did not arrive")
        self.player.version = version
        return PublishProof(version, "", 0.0)


def config_of(schedule, **chosen):
    asynchrony = AsynchronyConfig(**chosen) if schedule == "asynchronous" else AsynchronyConfig()
    return TrainConfig(
        model="scripted",
        steps=STEPS,
        prompts_per_step=PROMPTS,
        samples_per_prompt=SAMPLES,
        schedule=schedule,
        asynchrony=asynchrony,
        episode_timeout_s=100_000.0,
        stall_timeout_s=400_000.0,
    )


def faults(seed, count=FAULTS):
    """Which calls fail. A retry is a call too, so that some are hit again."""
    dice = random.Random(seed)
    calls = dice.sample(range(STEPS * PROMPTS * SAMPLES), count)
    return {call: dice.choice(KINDS) for call in calls}


def run(config, injected, lost_at=-1, pressure=None):
    player, records = FaultyPlayer(injected), SimulatedRecords()
    sides, waits = Sides(player, lost_at), Waits(config.stall_timeout_s)
    episodes = Episodes([player], config, waits)

    async def quiet():
        return Pressure()

    parts = Parts(
        config, NumberedProblems(PROMPTS), episodes, sides, sides, records, Pending(None), waits,
        pressure or quiet,
    )  # fmt: skip
    if config.schedule == "asynchronous":
        schedule = Asynchronous(parts, restore((), (), SAMPLES))
    else:
        kind = OneStepOff if config.schedule == "one_step_off" else Synchronous
        schedule = kind(parts, {})
    run_virtual(waits.guard(schedule.run(0)), limit_s=1e9)
    return schedule, player, records, episodes


SCHEDULES = [
    config_of("synchronous"),
    config_of("one_step_off"),
    config_of("asynchronous", look_s=600.0),
    config_of("asynchronous", look_s=600.0, stale="drop", max_staleness=1),
    config_of("asynchronous", look_s=600.0, stale="requeue", max_staleness=1),
    config_of("asynchronous", look_s=600.0, max_staleness=0),
]
NAMES = ["synchronous", "one step off", "train", "drop", "requeue", "fresh"]


@pytest.mark.parametrize("config", SCHEDULES, ids=NAMES)
def test_200_faults_are_accounted_for(config):
    schedule, player, records, episodes = run(config, faults(1))
    assert sum(player.injected.values()) == FAULTS
    rollouts = [r for batch in records.batches for r in batch.played]
    assert len(records.batches) == STEPS
    assert len(rollouts) == STEPS * PROMPTS * SAMPLES
    used = [key for batch in records.batches for key in batch.used]
    rows = Counter(row for row, _ in used)
    assert max(rows.values()) == 1
    if config.asynchrony.stale != "drop":
        assert sorted(rows) == list(range(STEPS * PROMPTS))
    failed = sum(r.outcome is Outcome.FAILED for r in rollouts)
    told = sum(player.injected[kind] for kind in CLASS)  # a straggler is slow, not wrong
    if not isinstance(schedule, Asynchronous):
        assert episodes.num_retries + failed == told
        return
    control, buffer = schedule.control, schedule.buffer
    assert control.submitted == control.accepted + control.filtered + control.running
    assert control.running == 0 and len(buffer) == 0
    assert buffer.num_dispatched == buffer.num_returned + buffer.num_cancelled
    dropped = sum(len(batch.dropped) + len(batch.requeued) for batch in records.batches)
    assert buffer.num_returned == len(rollouts) + dropped * SAMPLES
    left_out = dropped * SAMPLES + buffer.num_cancelled  # their last failures are not in a batch
    assert told - left_out <= episodes.num_retries + failed <= told


@pytest.mark.parametrize("config", SCHEDULES, ids=NAMES)
def test_the_statistics_are_those_of_a_run_without_faults(config):
    _, _, with_faults, _ = run(config, faults(2))
    _, _, without, _ = run(config, {})

    def rewards(records):
        return {
            (r.problem_id, r.index): r.reward
            for batch in records.batches
            for r in batch.played
            if r.outcome.is_reward_valid
        }

    got, wanted = rewards(with_faults), rewards(without)
    shared = got.keys() & wanted.keys()
    assert all(got[key] == wanted[key] for key in shared)
    spread = statistics.stdev(wanted.values()) / len(wanted) ** 0.5
    assert abs(statistics.fmean(got.values()) - statistics.fmean(wanted.values())) < 1.96 * spread
    lost = wanted.keys() - got.keys()
    assert len(lost) <= 0.05 * len(wanted) or config.asynchrony.stale == "drop"


def test_a_failure_that_stays_is_left_out_and_told_by_class():
    config = config_of("synchronous")

    class Always(FaultyPlayer):
        async def play(self, problem, *, group, index, seed):
            if (problem.id, index) == ("0", 0):
                raise RewardError("the verifier is down")
            return await super().play(problem, group=group, index=index, seed=seed)

    player, records = Always({}), SimulatedRecords()
    waits = Waits(config.stall_timeout_s)
    sides = Sides(player)
    parts = Parts(
        config, NumberedProblems(PROMPTS), Episodes([player], config, waits), sides, sides,
        records, Pending(None), waits, quiet_engine,
    )  # fmt: skip
    run_virtual(waits.guard(Synchronous(parts, {}).run(0)))
    lost = [r for batch in records.batches for r in batch.played if class_of(r)]
    assert [(r.problem_id, r.index, class_of(r)) for r in lost] == [("0", 0, "grader")]


def test_a_retry_goes_to_another_player():
    config, waits = config_of("synchronous"), Waits(1e6)
    asked = []

    class Player(FaultyPlayer):
        async def play(self, problem, *, group, index, seed):
            asked.append((self.calls, seed))
            if len(asked) < 3:
                raise BackendError("dead")
            return await super().play(problem, group=group, index=index, seed=seed)

    first, second = Player({}, calls=100), Player({}, calls=200)
    episodes = Episodes([first, second], config, waits)

    async def play():
        problem = NumberedProblems(PROMPTS).row(0)
        return await episodes.play(problem, step=0, group=0, index=0)

    found = run_virtual(play())
    assert found.outcome is Outcome.DONE
    assert [who for who, _ in asked] == [100, 200, 100]
    assert len({seed for _, seed in asked}) == 3


def test_a_lost_publication_ends_the_run():
    for config in SCHEDULES[:3]:
        with pytest.raises(TrainingError, match="did not arrive"):
            run(config, {}, lost_at=7)


def test_an_update_that_never_ends_fails_with_who_waits():
    config = config_of("asynchronous", look_s=1e5)
    player, records = FaultyPlayer({}), SimulatedRecords()
    waits = Waits(config.stall_timeout_s)

    class Stuck(Sides):
        async def update(self, rollouts):
            await asyncio.Event().wait()

    sides = Stuck(player)
    parts = Parts(
        config, NumberedProblems(PROMPTS), Episodes([player], config, waits), sides, sides,
        records, Pending(None), waits, quiet_engine,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"trainer waits .* for its update"):
        run_virtual(waits.guard(Asynchronous(parts, restore((), (), SAMPLES)).run(0)))


async def quiet_engine():
    return Pressure()


def test_overload_cancels_the_youngest_and_nothing_is_lost():
    preempted, dice = 0, random.Random(3)

    async def overloaded():
        nonlocal preempted
        preempted += dice.random() < 0.5
        return Pressure(10, 0, preempted)

    config = config_of("asynchronous", look_s=20.0)
    schedule, _, records, _ = run(config, {}, pressure=overloaded)
    assert schedule.buffer.num_cancelled > 0
    used = sorted(row for batch in records.batches for row, _ in batch.used)
    assert used == list(range(STEPS * PROMPTS))
    assert schedule.control.filtered == schedule.buffer.num_cancelled / SAMPLES


def test_an_engine_that_cannot_say_how_it_is_ends_the_run():
    async def dead():
        raise BackendError("the engine is gone")

    with pytest.raises(BackendError, match="gone"):
        run(config_of("asynchronous", look_s=600.0), {}, pressure=dead)
