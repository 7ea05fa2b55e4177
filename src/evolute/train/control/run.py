"""A training run on a live engine: builds the parts, resumes, and runs the chosen schedule.

    controller = Controller(config, run_dir, model, engine)
    await controller.run(on_step, should_stop) -> int      the last finished step
    controller.save_result() -> Path

Killed at any moment, a run goes on after its last counted step: later journal lines are cut off
and the step is done again. The version that is published after step k is k + 1; version 0 is the
adapter that changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from evolute.agents import AgentPlayer
from evolute.envs import EpisodePlayer
from evolute.envs.tools import ToolTask
from evolute.models import LoadedModel, LoraWeights, ModelWeights
from evolute.telemetry import Tracer
from evolute.train.companions import companions
from evolute.train.control.asynchronous import Asynchronous
from evolute.train.control.cap import Pressure
from evolute.train.control.crew import Crew
from evolute.train.control.episodes import Episodes
from evolute.train.control.parts import Parts
from evolute.train.control.pending import Pending
from evolute.train.control.playing import agent_player, num_places, sampling_of, task_of
from evolute.train.control.priority import step_back
from evolute.train.control.records import RunRecords, StepReport
from evolute.train.control.replayed import Replayed
from evolute.train.control.rows import restore, unused
from evolute.train.control.synchronous import OneStepOff, Synchronous
from evolute.train.control.watchdog import Waits
from evolute.train.results import save_result
from evolute.train.rollouts import ProblemSource
from evolute.train.settings import TrainConfig
from evolute.train.settings_ray import RayConfig, SyncConfig
from evolute.train.sync import LiveEngine, Loopback, PublishProof, publish
from evolute.train.trainer import Trainer, UpdateReport, make_policy
from evolute.types import OutOfCapacity, Player, Problem, Rollout, TrainingError
from evolute.types.settings import to_toml

Schedule = Asynchronous | OneStepOff | Synchronous | Replayed


class Controller:
    """One training run in `run_dir`, on a live engine. `players` are interchangeable; without them
    the episodes of the task are played on the engine. `crew` trains and publishes in other
    processes; without one this process does."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        model: LoadedModel,
        engine: LiveEngine,
        adapter: str = "policy",
        tracer: Tracer | None = None,
        players: Sequence[Player] = (),
        crew: Crew | None = None,
    ) -> None:
        self.config, self.run_dir, self.engine, self._model = config, run_dir, engine, model
        self._tracer, self._players = tracer or Tracer(None), players
        self.adapter = adapter if config.method == "lora" else None  # None: the base itself
        self.task = task_of(config)
        self._agents: AgentPlayer | None = None
        self._told = Pressure()
        if crew is None:
            self.policy = make_policy(model, config)
            beside = companions(model, config)
            self.trainer = Trainer(self.policy, config, beside.reference, beside.teacher)
            crew = _InProcess(self)
        self.crew = crew
        self.source = ProblemSource(self.task, config.prompts_per_step, config.seed)
        self.sampling = sampling_of(config, self.task)
        self.digest = hashlib.sha256(to_toml(_apart(config)).encode()).hexdigest()[:16]
        canary = self.task.problems("train", 1)[0]
        self.canary = tuple([*engine.tokenizer.chat(canary.messages), *_gold(engine, canary)])

    async def run(
        self,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Do the steps that are left. Returns the number of the last finished step."""
        pending = Pending(self.run_dir / "pending.jsonl")
        records = RunRecords(
            self.run_dir, self.config, self.crew.kept, self.digest, pending, self._tracer
        )
        records.on_step = on_step
        first = records.resume() + 1
        parts = self._parts(records, pending, should_stop)
        try:
            await parts.weights.publish(first)
            if first < self.config.steps:
                await parts.waits.guard(self._schedule(parts, records).run(first))
        finally:
            if self._agents is not None:
                await self._agents.dispatcher.close()
        records.close()
        return records.done

    def save_result(self) -> Path:
        """What was trained as others load it: a PEFT directory `adapter`, or a Hugging Face
        directory `model`. Readers see a whole one or none."""
        weights = self.crew.weights()
        return save_result(self.run_dir, weights, self._model, self.config.model)

    # -- internals ---------------------------------------------------------------

    def _parts(
        self, records: RunRecords, pending: Pending, should_stop: Callable[[], bool]
    ) -> Parts:
        waits = Waits(self.config.stall_timeout_s)
        freeze = self.config.schedule == "asynchronous"
        episodes = self._episodes(waits)
        return Parts(
            config=self.config,
            source=self.source,
            episodes=episodes,
            learner=_Learner(self.crew, self.config, waits),
            weights=_Weights(self, freeze, waits),
            records=records,
            pending=pending,
            waits=waits,
            pressure=partial(self._pressure, episodes),
            should_stop=should_stop,
            tracer=self._tracer,
        )

    def _episodes(self, waits: Waits) -> Episodes:
        """Those of the players that were given, or the task's on the engine."""
        if self._players:
            places = max(getattr(player, "places", 0) for player in self._players)
            return Episodes(self._players, self.config, waits, places)
        places = num_places(self.engine)
        if isinstance(self.task, ToolTask):
            self._agents = agent_player(self.config, self.task, self.engine, self.adapter, places)
            return Episodes([self._agents], self.config, waits)  # they queue by themselves
        player = EpisodePlayer(self.task, self.engine, self.sampling, self.adapter)
        return Episodes([player], self.config, waits, places)

    def _schedule(self, parts: Parts, records: RunRecords) -> Schedule:
        if self.config.replay:
            return Replayed(parts, Path(self.config.replay))
        entries, rows = parts.pending.read(), records.rows()
        if self.config.schedule == "asynchronous":
            return Asynchronous(parts, restore(entries, rows, self.config.samples_per_prompt))
        kind = OneStepOff if self.config.schedule == "one_step_off" else Synchronous
        return kind(parts, unused(entries, rows))

    async def _pressure(self, episodes: Episodes) -> Pressure:
        """The engine's own, and what waits for a place; while no engine lives, the last one."""
        try:
            stats = await asyncio.to_thread(self.engine.stats)
        except OutOfCapacity:
            return replace(self._told, waiting=episodes.num_waiting)
        waiting = stats.waiting + episodes.num_waiting
        self._told = Pressure(stats.running, waiting, stats.counts.preemptions)
        return self._told


@dataclass(frozen=True, slots=True)
class _Learner:
    """Updates by whoever trains."""

    crew: Crew
    config: TrainConfig
    waits: Waits

    async def update(self, rollouts: list[Rollout]) -> UpdateReport:
        with self.waits.on("its update", "who trains", self.crew.awaited):
            update = await self.crew.update(rollouts)
        if update.num_tokens and self.config.is_ratio_one and update.metrics["ratio_max"] != 1.0:
            raise TrainingError(f"the first ratio is {update.metrics['ratio_max']}, not 1.")
        return update


@dataclass(frozen=True, slots=True)
class _Weights:
    """From who trains into the engine."""

    run: Controller
    freeze: bool
    waits: Waits

    async def publish(self, version: int) -> PublishProof:
        run = self.run
        with self.waits.on("the publication", "engines", run.crew.awaited):
            return await run.crew.publish(run.adapter, version, run.canary, freeze=self.freeze)


class _InProcess:
    """A crew of one, in this process; updates run on a thread of their own."""

    def __init__(self, run: Controller) -> None:
        self._run, self.kept = run, run.trainer
        self._thread = ThreadPoolExecutor(  # torch starts its own threads for each one that calls
            1, "evolute-update", initializer=step_back, initargs=(run.config.update_nice,)
        )
        self._way: Loopback | None = None

    def awaited(self) -> list[str]:
        return []

    async def update(self, rollouts: list[Rollout]) -> UpdateReport:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run.trainer.update, rollouts)

    async def publish(
        self, name: str | None, version: int, canary: tuple[int, ...], *, freeze: bool
    ) -> PublishProof:
        run = self._run
        engine, sync = run.engine, run.config.sync
        if sync.way == "publish":
            return await publish(engine, name, run.policy, version, canary, freeze=freeze)
        if self._way is None:
            self._way = Loopback(sync, run.run_dir, engine, name)
        return await asyncio.to_thread(self._way.publish, run.policy, version, canary)

    def weights(self) -> LoraWeights | ModelWeights:
        return self._run.policy.snapshot()


def _apart(config: TrainConfig) -> TrainConfig:
    """Without what says where things are computed: a run may be resumed elsewhere."""
    return replace(config, sync=SyncConfig(), ray=RayConfig())


def _gold(engine: LiveEngine, problem: Problem) -> list[int]:
    ids: list[int] = engine.tokenizer.encode(problem.gold)
    return ids
