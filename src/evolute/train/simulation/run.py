"""What would a run cost under each schedule? The controllers of real runs on a virtual clock.

    predict(simulation, schedule) -> Prediction
    predict_all(simulation) -> dict of predictions by schedule

The schedules are the classes of `train/control`, unchanged; only the sides are simulated.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from evolute.telemetry.virtual_time import run_virtual
from evolute.train.control.asynchronous import Asynchronous
from evolute.train.control.cap import Pressure
from evolute.train.control.episodes import Episodes
from evolute.train.control.parts import Parts
from evolute.train.control.pending import Pending
from evolute.train.control.rows import restore
from evolute.train.control.synchronous import OneStepOff, Synchronous
from evolute.train.control.watchdog import Waits
from evolute.train.settings import AsynchronyConfig, TrainConfig
from evolute.train.simulation.engine import SimulatedEngine
from evolute.train.simulation.lengths import Lengths
from evolute.train.simulation.settings import TrainingSimulation
from evolute.train.simulation.sides import (
    NumberedProblems,
    SimulatedLearner,
    SimulatedPlayer,
    SimulatedRecords,
    SimulatedWeights,
)
from evolute.types import ConfigError


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one schedule. Shares are of the makespan."""

    makespan_s: float
    steps: int
    trained_tokens: int
    tokens_s: float  # trained tokens a second
    engine_idle: float  # share of the time in which no sequence ran
    engine_used: float  # sampled tokens over those it could have sampled
    trainer_idle: float
    staleness: dict[int, float]  # updates of age -> share of trained tokens
    staleness_mean: float
    staleness_max: int


def predict_all(simulation: TrainingSimulation) -> dict[str, Prediction]:
    """By schedule, in the order of the settings."""
    return {schedule: predict(simulation, schedule) for schedule in simulation.schedules}


def predict(simulation: TrainingSimulation, schedule: str) -> Prediction:
    """Run one schedule to its end. Raises VirtualTimeout beyond limit_s."""
    return run_virtual(_run(simulation, schedule), limit_s=simulation.limit_s)


# -- internals ---------------------------------------------------------------


async def _run(simulation: TrainingSimulation, schedule: str) -> Prediction:
    cluster, is_shared = simulation.cluster, schedule == "synchronous"
    is_colocated = is_shared and cluster.is_colocated
    share = 1.0 if is_colocated else cluster.engine_share
    rest = 1.0 if is_colocated else 1 - cluster.engine_share
    model = simulation.engine
    room = max(1, round(model.max_running * share))
    engine = SimulatedEngine(model.stream_tokens_s, model.tokens_s * share, room)
    learner = SimulatedLearner(simulation.trainer, simulation.trainer.tokens_s * rest)
    records = SimulatedRecords()
    extra_s = 2 * cluster.switch_s if is_colocated else 0.0
    weights = SimulatedWeights(engine, simulation.trainer.publish_s + extra_s)
    parts = _parts(simulation, schedule, engine, learner, weights, records)
    begun_s = asyncio.get_running_loop().time()
    await parts.waits.guard(_schedule(parts).run(0))
    seconds = asyncio.get_running_loop().time() - begun_s
    return _prediction(seconds, engine, model.tokens_s * share, learner, records)


def _parts(
    simulation: TrainingSimulation,
    schedule: str,
    engine: SimulatedEngine,
    learner: SimulatedLearner,
    weights: SimulatedWeights,
    records: SimulatedRecords,
) -> Parts:
    config = train_config(simulation, schedule)
    waits = Waits(config.stall_timeout_s)
    player = SimulatedPlayer(engine, Lengths(simulation))

    async def pressure() -> Pressure:
        return engine.load()

    return Parts(
        config=config,
        source=NumberedProblems(config.prompts_per_step),
        episodes=Episodes([player], config, waits),
        learner=learner,
        weights=weights,
        records=records,
        pending=Pending(None),
        waits=waits,
        pressure=pressure,
    )


def train_config(simulation: TrainingSimulation, schedule: str) -> TrainConfig:
    """The settings that the schedule would have in a real run."""
    chosen = AsynchronyConfig()
    if schedule == "asynchronous":
        chosen = AsynchronyConfig(
            max_staleness=simulation.max_staleness,
            max_groups=simulation.max_groups,
            adaptive=False,
        )
    elif schedule not in ("synchronous", "one_step_off"):
        raise ConfigError(f"no schedule {schedule!r}.")
    return TrainConfig(
        model="simulated",
        steps=simulation.steps,
        prompts_per_step=simulation.prompts_per_step,
        samples_per_prompt=simulation.samples_per_prompt,
        seed=simulation.seed,
        schedule=schedule,  # type: ignore[arg-type]
        asynchrony=chosen,
        episode_timeout_s=simulation.limit_s,
        stall_timeout_s=simulation.limit_s,
    )


def _schedule(parts: Parts) -> Asynchronous | OneStepOff | Synchronous:
    if parts.config.schedule == "asynchronous":
        return Asynchronous(parts, restore((), (), parts.config.samples_per_prompt))
    return (OneStepOff if parts.config.schedule == "one_step_off" else Synchronous)(parts, {})


def _prediction(
    seconds: float,
    engine: SimulatedEngine,
    capacity_tokens_s: float,
    learner: SimulatedLearner,
    records: SimulatedRecords,
) -> Prediction:
    trained = sum(records.ages.values())
    mean = sum(age * count for age, count in records.ages.items()) / max(trained, 1)
    return Prediction(
        makespan_s=seconds,
        steps=len(records.batches),
        trained_tokens=trained,
        tokens_s=trained / seconds,
        engine_idle=1 - engine.busy_s() / seconds,
        engine_used=engine.served / (capacity_tokens_s * seconds),
        trainer_idle=1 - learner.busy_s / seconds,
        staleness={age: count / max(trained, 1) for age, count in sorted(records.ages.items())},
        staleness_mean=mean,
        staleness_max=max(records.ages, default=0),
    )
