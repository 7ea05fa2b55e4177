"""The synchronous loop of a run.

    problems --episodes on the live engine--> rollouts --journal--> update --checkpoint-->
        ^                                                                       |
        +------------- publish: new adapter version, proved <-------------------+

A step counts when the checkpoint pointer has passed it. Killed at any moment, a run goes on
after its last counted step: later journal lines are cut off and the step is done again. The
version that is published after step k is k + 1; version 0 is the adapter that changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from evolute.engine import Engine
from evolute.envs import make_task, mean_interval, run_episode
from evolute.models import LoadedModel
from evolute.telemetry import RecordWriter, Tracer
from evolute.train import checkpoint
from evolute.train.companions import companions
from evolute.train.results import cut_steps, save_result
from evolute.train.rollouts import Journal, ProblemSource, gathered
from evolute.train.settings import TrainConfig
from evolute.train.sync import PublishProof, publish
from evolute.train.trainer import Trainer, UpdateReport, make_policy
from evolute.types import Outcome, Problem, Rollout, SamplingParams, TrainingError
from evolute.types.settings import to_toml

logger = logging.getLogger(__name__)
SAMPLES_A_STEP = 4
FOR_USERS = 4  # places in the engine's batch that rollouts leave free, so that nobody queues


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step, as the caller's progress shows it."""

    step: int
    metrics: dict[str, float]


class Controller:
    """One training run in `run_dir`, on a live engine."""

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path,
        model: LoadedModel,
        engine: Engine,
        adapter: str = "policy",
        tracer: Tracer | None = None,
    ) -> None:
        self.config, self.run_dir, self.engine, self._model = config, run_dir, engine, model
        self._tracer = tracer or Tracer(None)
        self._thread = ThreadPoolExecutor(  # torch starts its own threads for each one that calls
            1, "evolute-update", initializer=step_back, initargs=(config.update_nice,)
        )
        self.adapter = adapter if config.method == "lora" else None  # None: the base itself
        self.task = make_task(config.task)
        self.policy = make_policy(model, config)
        beside = companions(model, config)
        self.trainer = Trainer(self.policy, config, beside.reference, beside.teacher)
        self.source = ProblemSource(self.task, config.prompts_per_step, config.seed)
        self.sampling = SamplingParams(
            max_new_tokens=config.max_new_tokens or self.task.max_new_tokens,
            temperature=config.temperature,
        )
        self.digest = hashlib.sha256(to_toml(config).encode()).hexdigest()[:16]
        canary = self.task.problems("train", 1)[0]
        self.canary = tuple([*engine.tokenizer.chat(canary.messages), *_gold(engine, canary)])
        self._journal = Journal(run_dir / "rollouts.jsonl")

    async def run(
        self,
        on_step: Callable[[StepReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Do the steps that are left. Returns the number of the last finished step."""
        done = saved = await self._resume()
        for step in range(done + 1, self.config.steps):
            if should_stop():
                break
            report = await self._step(step)
            done = step
            if (step + 1) % self.config.checkpoint_every == 0:
                saved = self._save(step)
            if on_step:
                on_step(report)
        if saved < done:
            self._save(done)
        return done

    def save_result(self) -> Path:
        """What was trained as others load it: a PEFT directory `adapter`, or a Hugging Face
        directory `model`. Readers see a whole one or none."""
        return save_result(self.run_dir, self.policy, self._model, self.config.model)

    # -- internals ---------------------------------------------------------------

    async def _resume(self) -> int:
        """Restore the last counted step and bring every file back to it."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        done = checkpoint.load(self.run_dir / "checkpoints", self.trainer, self.digest)
        self._journal.cut_after(done)
        for name in ("metrics.jsonl", "samples.jsonl"):
            cut_steps(self.run_dir / name, done)
        await publish(self.engine, self.adapter, self.policy, done + 1, self.canary)
        return done

    async def _step(self, step: int) -> StepReport:
        trace, started = self._tracer, time.perf_counter()
        problems: list[Problem] = []

        async def play(again: int) -> list[list[Rollout]]:
            more = self.source.batch(step, again)
            problems.extend(more)
            return await self._roll_out(step, more, len(problems) - len(more))

        with trace.span("train/rollout", step=step):
            chosen = self.config.algorithm.selection
            found = await gathered(self.config.prompts_per_step, play, chosen)
            rollouts = found.played
            self._journal.append(step, rollouts)
        rolled = time.perf_counter()
        with trace.span("train/update", step=step):
            loop = asyncio.get_running_loop()
            update = await loop.run_in_executor(self._thread, self.trainer.update, found.chosen)
        self._check_agreement(update)
        with trace.span("train/publish", step=step):
            proof = await publish(self.engine, self.adapter, self.policy, step + 1, self.canary)
        published = time.perf_counter()
        report = self._report(step, rollouts, update, proof)
        report |= {
            "rollout_s": rolled - started,
            "publish_s": published - rolled - update.metrics["update_s"],
        }
        if self.config.algorithm.selection.dynamic != "off":
            report |= {"num_batches": found.num_batches, "num_useless_groups": found.num_useless}
        self._record(step, problems, rollouts, report)
        return StepReport(
            step, {k: float(v) for k, v in report.items() if isinstance(v, float | int)}
        )

    def _save(self, step: int) -> int:
        directory, keep = self.run_dir / "checkpoints", self.config.keep_checkpoints
        with self._tracer.span("train/checkpoint", step=step):
            checkpoint.save(directory, step, self.trainer, self.digest, keep)
        return step

    async def _roll_out(
        self, step: int, problems: list[Problem], first: int = 0
    ) -> list[list[Rollout]]:
        """The groups of these problems; the first is the step's group number `first`."""
        gate = asyncio.Semaphore(max(1, self.engine.config.max_running - FOR_USERS))

        async def play(problem: Problem, group: int, index: int) -> Rollout:
            async with gate:
                return await self._episode(problem, step, group, index)

        size = self.config.samples_per_prompt
        jobs = [
            play(problem, group, index)
            for group, problem in enumerate(problems, first)
            for index in range(size)
        ]
        played = list(await asyncio.gather(*jobs))
        return [played[start : start + size] for start in range(0, len(played), size)]

    async def _episode(self, problem: Problem, step: int, group: int, index: int) -> Rollout:
        play = partial(
            run_episode,
            self.task,
            problem,
            self.engine,
            self.sampling,
            adapter=self.adapter,
            group=group,
            index=index,
        )
        again = group // self.config.prompts_per_step  # a problem may come back within a step
        first = self.config.seed * 1_000_003 + step + 15_485_863 * again
        rollout = await play(seed=first)
        for attempt in range(self.config.train_retries):
            if rollout.outcome is not Outcome.FAILED:
                break
            logger.warning("episode %s/%d failed: %s", problem.id, index, rollout.failure)
            rollout = await play(seed=first + 7919 * (attempt + 1))
        return rollout

    def _check_agreement(self, update: UpdateReport) -> None:
        is_one = self.config.is_ratio_one
        if update.num_tokens and is_one and update.metrics["ratio_max"] != 1.0:
            raise TrainingError(f"the first ratio is {update.metrics['ratio_max']}, not 1.")

    def _report(
        self, step: int, rollouts: list[Rollout], update: UpdateReport, proof: PublishProof
    ) -> dict[str, object]:
        valid = [r for r in rollouts if r.outcome.is_reward_valid]
        n = max(len(valid), 1)
        return {
            "kind": "train_step",
            "step": step,
            "reward_mean": sum(r.reward for r in valid) / n,
            **_reward_interval(valid),
            "accuracy_mean": sum(r.reward >= 1 for r in valid) / n,
            "tokens": sum(len(s.response_ids) for r in valid for s in r.samples),
            "num_failed": len(rollouts) - len(valid),
            "failures": update.failures,
            "fingerprint": proof.fingerprint,
            "version": proof.version,
            "canary_abs_diff": proof.canary_abs_diff,
            **update.metrics,
        }

    def _record(
        self,
        step: int,
        problems: list[Problem],
        rollouts: list[Rollout],
        report: dict[str, object],
    ) -> None:
        with RecordWriter(self.run_dir / "metrics.jsonl") as metrics:
            metrics.write(report)
        with RecordWriter(self.run_dir / "samples.jsonl") as samples:
            for rollout in rollouts[:: max(len(rollouts) // SAMPLES_A_STEP, 1)]:
                samples.write(
                    {
                        "step": step,
                        "problem_id": rollout.problem_id,
                        "prompt": _asked(problems[rollout.group]),
                        "text": rollout.text,
                        "gold": problems[rollout.group].gold,
                        "reward": rollout.reward,
                        "outcome": rollout.outcome,
                    }
                )


def _reward_interval(valid: list[Rollout]) -> dict[str, float]:
    """Ends of the 95 % interval of the mean reward. Siblings share their problem, so that the
    problems' means are what is independent; none when there are fewer than two."""
    by_group: dict[int, list[float]] = {}
    for rollout in valid:
        by_group.setdefault(rollout.group, []).append(rollout.reward)
    if len(by_group) < 2:
        return {}
    found = mean_interval([statistics.fmean(rewards) for rewards in by_group.values()])
    return {"reward_low": found.low, "reward_high": found.high}


def _asked(problem: Problem) -> str:
    """What the model was told, without the template."""
    return "\n\n".join(m["content"] for m in problem.messages)


def step_back(nice: int) -> None:
    """Let this thread, and those it starts, yield to the ones that answer users. Linux counts
    niceness by thread; elsewhere nothing is done."""
    if sys.platform == "linux" and nice:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


def _gold(engine: Engine, problem: Problem) -> list[int]:
    ids: list[int] = engine.tokenizer.encode(problem.gold)
    return ids
