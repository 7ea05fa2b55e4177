"""The main job, phase by phase, in one run directory.

    serve -> measure base -> model loop -> measure trained -> system loop -> report

Each finished phase is noted in state.json; a resumed run skips what is done. Training resumes
inside its phase from the checkpoint pointer, tuning from the ledger.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.bench import WorkItem, save_workload
from evolute.cli.availability import Poller
from evolute.dashboard import write_report
from evolute.engine import Engine, EngineConfig
from evolute.envs import Accuracy, evaluate, paired_difference
from evolute.envs.tuning import Judge, SubprocessRunner, engine_space
from evolute.evolve import (
    Ledger,
    ModelProposer,
    OptunaProposer,
    Proposer,
    RandomProposer,
    tune,
)
from evolute.models import load_model
from evolute.server import create_app, serve_in_thread
from evolute.telemetry import RecordWriter, progress
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


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Settings of `evolute loop`."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    eval_count: int = 128
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(page_size=4))
    tune: TuneSettings = field(default_factory=TuneSettings)

    def __post_init__(self) -> None:
        if self.eval_count < 1:
            raise ConfigError(f"eval_count is {self.eval_count}; it must be at least 1.")


class MainJob:
    """One run of the main job. `say` is told what people want to know."""

    def __init__(self, config: LoopConfig, run_dir: Path, say: Callable[[str], None]) -> None:
        self.config, self.run_dir, self.say = config, run_dir, say
        self.is_stopping = False
        self._state_file = run_dir / "state.json"
        self._done: dict[str, Any] = (
            json.loads(self._state_file.read_text()) if self._state_file.exists() else {}
        )

    def run(self) -> Path:
        """Everything that is left to do; returns the report."""
        model = load_model(self.config.train.model)
        with Engine(model, self.config.engine) as engine:
            app = create_app(engine, served_names=[model.name])
            with serve_in_thread(app, self.config.host, self.config.port) as server:
                self.say(f"serving {model.name} at {server.url}")
                with Poller(server.url) as poller:
                    asyncio.run(self._phases(engine, model))
                seen = dataclasses.asdict(poller.seen)
                self._record({"kind": "poll", **seen})
        report = write_report(self.run_dir)
        self.say(f"report: {report}")
        return report

    # -- phases ------------------------------------------------------------------

    async def _phases(self, engine: Engine, model: Any) -> None:
        controller = Controller(self.config.train, self.run_dir, model, engine, ADAPTER)
        base = await self._phase("base", self._measure, engine, "base", None)
        await self._phase("train", self._train, controller)
        if self._is_done("train"):
            await controller.run()  # restores and publishes the trained adapter; no step is left
            name = controller.adapter
            trained = await self._phase("trained", self._measure, engine, "trained", name)
            if base and trained:
                self._difference(base, trained)
            await self._phase("tune", self._tune, engine)

    async def _phase(self, name: str, work: Callable[..., Any], *args: Any) -> Any:
        """Do a phase unless it is done; remember its result."""
        if self.is_stopping:
            return None
        if name not in self._done:
            started = time.perf_counter()
            result = await work(*args)
            if self.is_stopping:
                return None
            self._done[name] = result
            self._save_state()
            seconds = time.perf_counter() - started
            self._record({"kind": "phase", "name": name, "seconds": seconds})
        return self._done[name]

    def _is_done(self, name: str) -> bool:
        return name in self._done

    async def _measure(self, engine: Engine, name: str, adapter: str | None) -> dict[str, bool]:
        from evolute.envs import make_task

        task = make_task(self.config.train.task)
        with progress(f"eval {name}", self.config.eval_count) as bar:
            accuracy: Accuracy = await evaluate(
                task,
                engine,
                count=self.config.eval_count,
                adapter=adapter,
                on_progress=bar.advance,
            )
        mean, low, high = dataclasses.astuple(accuracy.interval)
        self._record(
            {"kind": "eval", "name": name, "mean": mean, "low": low, "high": high, "n": accuracy.n}
        )
        self.say(f"accuracy, {name}: {mean:.1%} (95 % interval {low:.1%} to {high:.1%})")
        return accuracy.correct_by_problem

    async def _train(self, controller: Controller) -> int:
        with progress("train", self.config.train.steps) as bar:

            def show(report: StepReport) -> None:
                bar.advance(report.step + 1, f"accuracy {report.metrics['accuracy_mean']:.2f}")

            last = await controller.run(show, lambda: self.is_stopping)
        if last + 1 < self.config.train.steps:
            self.is_stopping = True
        controller.save_result()
        return last

    def _difference(self, base: dict[str, bool], trained: dict[str, bool]) -> None:
        if self._is_done("difference"):
            return
        gain = paired_difference(base, trained)
        self._record({"kind": "difference", **dataclasses.asdict(gain)})
        self._done["difference"] = True
        self._save_state()
        self.say(f"gain: {gain.mean:+.1%} (95 % interval {gain.low:+.1%} to {gain.high:+.1%})")

    async def _tune(self, engine: Engine) -> dict[str, Any]:
        workload = self.run_dir / "workload.jsonl"
        if not workload.exists():
            save_workload(self._traffic(), workload)
        base = dataclasses.asdict(self.config.engine)
        runner = SubprocessRunner(self.config.train.model, workload, base)
        judge = Judge(runner, workload, pairs=self.config.tune.pairs)
        seed = self.config.train.seed
        proposers: list[Proposer] = [
            RandomProposer(seed),
            OptunaProposer(seed),
            ModelProposer(engine, seed=seed),
        ]
        with progress("tune", self.config.tune.trials) as bar:
            report = await tune(
                engine_space(),
                judge,
                proposers,
                Ledger(self.run_dir / "ledger.jsonl"),
                max_trials=self.config.tune.trials,
                on_trial=lambda t: bar.advance(t.id, f"{t.verdict}: {t.why}"),
                should_stop=lambda: self.is_stopping,
            )
        if report.best:
            live = {name: value for name, value in report.best.items() if name in LIVE}
            engine.apply_settings(**live)
        ratio = dataclasses.asdict(report.ratio) if report.ratio else None
        self._record({"kind": "throughput", "ratio": ratio, "best": report.best, "why": report.why})
        self.say(f"tuning: {report.best or 'the settings in force stay'} ({report.why})")
        return {"best": report.best}

    # -- files -------------------------------------------------------------------

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

    def _record(self, record: dict[str, Any]) -> None:
        with RecordWriter(self.run_dir / "metrics.jsonl") as metrics:
            metrics.write(record)

    def _save_state(self) -> None:
        temporary = self._state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._done))
        os.replace(temporary, self._state_file)
