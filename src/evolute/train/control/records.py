"""What does a run write down? Journal, metrics, samples, what became of each row, checkpoints.

    records = RunRecords(run_dir, config, trainer, digest, pending, tracer)
    records.resume() -> int        the last counted step; every file is brought back to it
    records.journal(batch)         the rollouts of a step, before they are trained on
    records.finish(batch, ...)     metrics, samples, rows; the checkpoint when one is due
    records.close()                the checkpoint of the last step, if it has none

A step counts when the checkpoint pointer has passed it.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.envs import mean_interval
from evolute.telemetry import RecordWriter, Tracer, read_records
from evolute.train import checkpoint
from evolute.train.control.groups import Batch, Key
from evolute.train.control.pending import Pending
from evolute.train.failures import Bias, count_classes, is_valued
from evolute.train.results import cut_steps
from evolute.train.rollouts import Journal
from evolute.train.settings import TrainConfig
from evolute.train.sync import PublishProof
from evolute.train.trainer import UpdateReport
from evolute.types import Problem, Rollout

SAMPLES_A_STEP = 4


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step, as the caller's progress shows it."""

    step: int
    metrics: dict[str, float]


class RunRecords:
    """The files of one run."""

    def __init__(
        self,
        run_dir: Path,
        config: TrainConfig,
        trainer: checkpoint.Resumable | checkpoint.Remote,
        digest: str,
        pending: Pending,
        tracer: Tracer,
    ) -> None:
        self.run_dir, self._config, self._trainer, self._digest = run_dir, config, trainer, digest
        self._pending, self._tracer = pending, tracer
        self._journal = Journal(run_dir / "rollouts.jsonl")
        self._bias = Bias()
        self._spent: set[Key] = set()  # rows that may still be in the file of what waits
        self.on_step: Callable[[StepReport], None] | None = None
        self.done = self._saved = -1

    def resume(self) -> int:
        """Restore the last counted step and bring every file back to it."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.done = checkpoint.load(self.run_dir / "checkpoints", self._trainer, self._digest)
        self._saved = self.done
        self._journal.cut_after(self.done)
        for name in ("metrics.jsonl", "samples.jsonl", "rows.jsonl"):
            cut_steps(self.run_dir / name, self.done)
        by_step: dict[int, list[Rollout]] = {}
        for step, rollout in self._journal.read():
            by_step.setdefault(step, []).append(rollout)
        self._bias = Bias()
        for rollouts in by_step.values():
            self._bias.add(rollouts)
        lists = (r[name] for r in self.rows() for name in ("used", "dropped", "requeued"))
        self._spent = {(row, attempt) for keys in lists for row, attempt in keys}
        return self.done

    def rows(self) -> list[dict[str, Any]]:
        """What became of rows, by counted step."""
        return read_records(self.run_dir / "rows.jsonl")

    def journal(self, batch: Batch) -> None:
        self._journal.append(batch.step, batch.played)

    def finish(
        self, batch: Batch, update: UpdateReport, proof: PublishProof, publish_s: float
    ) -> None:
        """Write the step's records down; with its checkpoint it counts."""
        self._bias.add(batch.played)
        report = step_report(batch, update, proof, publish_s, self._config)
        report |= self._bias.report()
        with RecordWriter(self.run_dir / "metrics.jsonl") as metrics:
            metrics.write(report)
        self._write_samples(batch)
        self._write_rows(batch)
        self.done = batch.step
        if (batch.step + 1) % self._config.checkpoint_every == 0:
            self._save(batch.step)
        if self.on_step:
            numbers = {k: float(v) for k, v in report.items() if isinstance(v, float | int)}
            self.on_step(StepReport(batch.step, numbers))

    def close(self) -> None:
        """The last step counts too."""
        if self._saved < self.done:
            self._save(self.done)

    # -- internals ---------------------------------------------------------------

    def _save(self, step: int) -> None:
        directory, keep = self.run_dir / "checkpoints", self._config.keep_checkpoints
        with self._tracer.span("train/checkpoint", step=step):
            checkpoint.save(directory, step, self._trainer, self._digest, keep)
        self._saved = step
        if self._pending.forget(self._spent):
            self._spent.clear()

    def _write_rows(self, batch: Batch) -> None:
        path = self.run_dir / "rows.jsonl"
        record = {"step": batch.step, "used": batch.used, "dropped": batch.dropped}
        with RecordWriter(path) as rows:
            rows.write({**record, "requeued": batch.requeued})
        with path.open("rb") as file:
            os.fsync(file.fileno())
        self._spent |= {*batch.used, *batch.dropped, *batch.requeued}

    def _write_samples(self, batch: Batch) -> None:
        with RecordWriter(self.run_dir / "samples.jsonl") as samples:
            for rollout in batch.played[:: max(len(batch.played) // SAMPLES_A_STEP, 1)]:
                problem = batch.problems[rollout.group]
                samples.write(
                    {
                        "step": batch.step,
                        "problem_id": rollout.problem_id,
                        "prompt": _asked(problem),
                        "text": rollout.text,
                        "gold": problem.gold,
                        "reward": rollout.reward,
                        "outcome": rollout.outcome,
                    }
                )


def step_report(
    batch: Batch,
    update: UpdateReport,
    proof: PublishProof,
    publish_s: float,
    config: TrainConfig,
) -> dict[str, object]:
    """The record of a step in metrics.jsonl."""
    valid = [r for r in batch.played if is_valued(r, config.failures)]
    n = max(len(valid), 1)
    return {
        "kind": "train_step",
        "step": batch.step,
        "reward_mean": sum(r.reward for r in valid) / n,
        **reward_interval(valid),
        "accuracy_mean": sum(r.reward >= 1 for r in valid) / n,
        "tokens": sum(len(s.response_ids) for r in valid for s in r.samples),
        "num_failed": len(batch.played) - len(valid),
        "failures": update.failures,
        "failure_classes": count_classes(batch.played),
        "fingerprint": proof.fingerprint,
        "version": proof.version,
        "canary_abs_diff": proof.canary_abs_diff,
        "num_engines": proof.num_engines,
        **update.metrics,
        "rollout_s": batch.had_s - batch.begun_s,
        "publish_s": publish_s,
        **batch.metrics,
    }


def reward_interval(valid: list[Rollout]) -> dict[str, float]:
    """Ends of the 95 % interval of the mean reward. Siblings share their problem, so that the
    problems' means are what is independent; none when there are fewer than two."""
    by_group: dict[int, list[float]] = {}
    for rollout in valid:
        by_group.setdefault(rollout.group, []).append(rollout.reward)
    if len(by_group) < 2:
        return {}
    found = mean_interval([statistics.fmean(rewards) for rewards in by_group.values()])
    return {"reward_low": found.low, "reward_high": found.high}


# -- internals ---------------------------------------------------------------


def _asked(problem: Problem) -> str:
    """What the model was told, without the template."""
    return "\n\n".join(m["content"] for m in problem.messages)
