"""The main job, phase by phase, in one run directory.

    serve -> measure base -> model loop -> measure trained -> system loop -> report

Each finished phase is noted in state.json (`run_state.py`); a resumed run skips what is done.
Training resumes inside its phase from the checkpoint pointer, tuning from the ledger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evolute.bench import WorkItem, save_workload
from evolute.cli.availability import Poller
from evolute.cli.options import as_options
from evolute.cli.run_state import Record, RunState
from evolute.dashboard import write_report
from evolute.dashboard.live import live_router
from evolute.dashboard.training import training_router
from evolute.engine import Engine, EngineConfig
from evolute.envs import Accuracy, evaluate, make_task, paired_difference
from evolute.envs.tuning import MAX_PAIRS, Judge, SubprocessRunner, engine_space
from evolute.evolve import (
    Ledger,
    ModelProposer,
    OptunaProposer,
    Proposer,
    RandomProposer,
    Trial,
    tune,
)
from evolute.models import LoadedModel, load_model
from evolute.server import create_app, serve_in_thread
from evolute.telemetry import Tracer, progress
from evolute.train import Controller, StepReport, TrainConfig
from evolute.train.rollouts import Journal
from evolute.types import ConfigError

ADAPTER = "policy"
LIVE = ("max_running", "token_budget", "num_threads", "policy")


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """The system loop: how many trials, how many interleaved pairs each, on how much traffic."""

    trials: int = 4
    pairs: int = 3
    requests: int = 32

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise ConfigError(f"tune.trials is {self.trials}; it must be at least 0.")
        if not 2 <= self.pairs <= MAX_PAIRS:
            raise ConfigError(f"tune.pairs is {self.pairs}; it must lie between 2 and {MAX_PAIRS}.")
        if self.requests < 1:
            raise ConfigError(f"tune.requests is {self.requests}; it must be at least 1.")


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Settings of `evolute loop`."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    eval_count: int = 128
    trace: bool = True  # spans of every step, for `evolute trace`
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(page_size=4))
    tune: TuneSettings = field(default_factory=TuneSettings)

    def __post_init__(self) -> None:
        if self.train.ray.is_on:
            raise ConfigError(
                "train.ray.engines and train.ray.trainers are set, but the loop measures and tunes "
                "one engine of its own; use `evolute train rl`, or leave them at 0."
            )
        if self.eval_count < 1:
            raise ConfigError(f"eval_count is {self.eval_count}; it must be at least 1.")


def check_task(config: LoopConfig) -> None:
    """Raise ConfigError before anything is made for a task that is unknown or too small."""
    task = make_task(config.train.task)
    try:
        task.problems("heldout", config.eval_count)
    except ConfigError as error:
        raise ConfigError(f"eval_count = {config.eval_count}: {error}") from error


@dataclass(frozen=True, slots=True)
class Finished:
    """What a phase gives: plain values for the phases after it, and records for the report."""

    result: Any
    records: Sequence[Record] = ()


class MainJob:
    """One run of the main job. `say` is told what people want to know."""

    def __init__(self, config: LoopConfig, run_dir: Path, say: Callable[[str], None]) -> None:
        self.config, self.run_dir, self.say = config, run_dir, say
        self.is_stopping = False
        self._state = RunState(run_dir)
        self._task = make_task(config.train.task)
        self._tracer = Tracer(run_dir / "trace.jsonl" if config.trace else None)

    def run(self) -> Path:
        """Everything that is left to do; returns the report. Raises ConfigError when another
        process is at it."""
        with self._state:
            if not self._state.is_done("tune"):
                self._work()
                self._tracer.close()
            report = write_report(self.run_dir)
        self.say(f"report: {report}")
        return report

    # -- phases ------------------------------------------------------------------

    def _work(self) -> None:
        model = load_model(self.config.train.model)
        with Engine(model, self.config.engine, tracer=self._tracer) as engine:
            pages = [live_router(engine), training_router(self.run_dir, model.tokenizer)]
            app = create_app(engine, served_names=[model.name], extra_routers=pages)
            with serve_in_thread(app, self.config.host, self.config.port) as server:
                self.say(
                    f"serving {model.name} at {server.url}; a browser sees it live there, and the "
                    "training at /run"
                )
                with Poller(server.url) as poller:
                    asyncio.run(self._phases(engine, model, poller))

    async def _phases(self, engine: Engine, model: LoadedModel, poller: Poller) -> None:
        train = self.config.train
        controller = Controller(train, self.run_dir, model, engine, ADAPTER, self._tracer)
        trained = partial(self._measure, engine, "trained", controller.adapter)
        todo: list[tuple[str, Callable[[], Awaitable[Finished | None]]]] = [
            ("base", partial(self._measure, engine, "base", None)),
            ("train", partial(self._train, controller)),
            ("trained", trained),
            ("difference", self._difference),
            ("tune", partial(self._tune, engine)),
        ]
        for name, work in todo:
            if self._state.is_done(name):
                if name == "train":  # restores and publishes what was trained; no step is left
                    await controller.run()
            elif not await self._phase(name, work, poller):
                return

    async def _phase(
        self, name: str, work: Callable[[], Awaitable[Finished | None]], poller: Poller
    ) -> bool:
        """Do a phase and note it; False when the run was stopped before its end."""
        if self.is_stopping:
            return False
        started = time.perf_counter()
        with self._tracer.span(f"loop/{name}"):
            finished = await work()
        if finished is None:
            return False
        seconds = time.perf_counter() - started
        records = [
            *finished.records,
            {"kind": "phase", "name": name, "seconds": seconds},
            {"kind": "poll", "during": name, **dataclasses.asdict(poller.take())},
        ]
        self._state.finish(name, finished.result, records)
        return True

    async def _measure(self, engine: Engine, name: str, adapter: str | None) -> Finished:
        with progress(f"eval {name}", self.config.eval_count) as bar:
            accuracy: Accuracy = await evaluate(
                self._task,
                engine,
                count=self.config.eval_count,
                adapter=adapter,
                max_new_tokens=self.config.train.max_new_tokens,
                concurrency=engine.config.bulk_places,
                on_progress=bar.advance,
            )
        mean, low, high = dataclasses.astuple(accuracy.interval)
        self.say(f"accuracy, {name}: {mean:.1%} (95 % interval {low:.1%} to {high:.1%})")
        record = {"kind": "eval", "name": name, "mean": mean, "low": low, "high": high}
        return Finished(accuracy.correct_by_problem, [{**record, "n": accuracy.n}])

    async def _train(self, controller: Controller) -> Finished | None:
        with progress("train", self.config.train.steps) as bar:

            def show(report: StepReport) -> None:
                bar.advance(report.step + 1, f"accuracy {report.metrics['accuracy_mean']:.2f}")

            last = await controller.run(show, lambda: self.is_stopping)
        controller.save_result()
        return Finished(last) if last + 1 == self.config.train.steps else None

    async def _difference(self) -> Finished:
        gain = paired_difference(self._state.result("base"), self._state.result("trained"))
        self.say(f"gain: {gain.mean:+.1%} (95 % interval {gain.low:+.1%} to {gain.high:+.1%})")
        return Finished(True, [{"kind": "difference", **dataclasses.asdict(gain)}])

    async def _tune(self, engine: Engine) -> Finished | None:
        base = dataclasses.asdict(self.config.engine)
        workload = self._workload()
        runner = SubprocessRunner(self.config.train.model, workload, base)
        judge = Judge(runner, workload, pairs=self.config.tune.pairs, conditions=repr(runner))
        seed = self.config.train.seed
        proposers: list[Proposer] = [
            RandomProposer(seed),
            OptunaProposer(seed),
            ModelProposer(engine, seed=seed),
        ]
        with progress("tune", self.config.tune.trials) as bar:
            report = await tune(
                engine_space(base),
                judge,
                proposers,
                Ledger(self.run_dir / "ledger.jsonl"),
                max_trials=self.config.tune.trials,
                on_trial=lambda t: bar.advance(t.id, _verdict(t)),
                should_stop=lambda: self.is_stopping,
            )
        if self.is_stopping:
            return None
        best = dict(report.best or {})
        live = {name: value for name, value in best.items() if name in LIVE}
        if live:
            engine.apply_settings(**live)
        restart = {name: value for name, value in best.items() if name not in LIVE}
        ratio = dataclasses.asdict(report.ratio) if report.ratio else None
        self.say(f"tuning: {report.best or 'the settings in force stay'} ({report.why})")
        if restart:
            words = as_options(restart, "engine.")
            self.say(f"in force after a restart only: evolute loop {words}")
        figures: dict[str, Any] = {"ratio": ratio, "best": report.best, "why": report.why}
        if report.tokens_per_s:
            figures |= zip(("before_tokens_per_s", "after_tokens_per_s"), report.tokens_per_s)
        record = {"kind": "throughput", **figures, "applied": live, "needs_restart": restart}
        return Finished({"best": report.best}, [record])

    # -- files -------------------------------------------------------------------

    def _workload(self) -> Path:
        """The run's traffic in a file, whole or not there, since the judge's digest covers it."""
        path = self.run_dir / "workload.jsonl"
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            save_workload(self._traffic(), temporary)
            os.replace(temporary, path)
        return path

    def _traffic(self) -> list[WorkItem]:
        """The last rollouts of the run, as requests."""
        rollouts = list(Journal(self.run_dir / "rollouts.jsonl").read())[
            -self.config.tune.requests :
        ]
        return [
            WorkItem(f"{step}-{r.group}-{r.index}", s.prompt_ids, max(len(s.response_ids), 1))
            for step, r in rollouts
            for s in r.samples[:1]
        ]


def _verdict(trial: Trial) -> str:
    """Short enough to stand beside a bar; the ledger has the whole story."""
    return f"{trial.verdict}, {trial.ratio.mean:.2f} times" if trial.ratio else str(trial.verdict)
