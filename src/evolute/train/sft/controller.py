"""The loop of a supervised run.

    files --read, fit--> samples --order: the step's own--> update --metrics--> checkpoint

A step counts when the checkpoint pointer has passed it. What a step does depends on (weights, data,
seed, step) alone, so that a run that was killed at any moment goes on to the same bits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.models import LoadedModel
from evolute.telemetry import RecordWriter
from evolute.train import checkpoint
from evolute.train.results import cut_steps, save_result
from evolute.train.sft.data import Fitted, fit, read
from evolute.train.sft.order import examples_of, num_examples, quotas
from evolute.train.sft.settings import SftConfig
from evolute.train.sft.trainer import SftTrainer
from evolute.train.trainer import UpdateReport, make_policy
from evolute.types import ConfigError, TrainingSample
from evolute.types.settings import to_toml


@dataclass(frozen=True, slots=True)
class SftReport:
    """One finished step, as the caller's progress shows it."""

    step: int
    num_steps: int
    metrics: dict[str, float]


class SftController:
    """One supervised run in `run_dir`. Raises ConfigError for data that cannot be used."""

    def __init__(self, config: SftConfig, run_dir: Path, model: LoadedModel) -> None:
        self.config, self.run_dir, self._model = config, run_dir, model
        self._files = _load(config, model)
        self._sizes = [len(file.samples) for file in self._files]
        self._samples = [sample for file in self._files for sample in file.samples]
        quotas(self._sizes, config.mix)
        self._total = num_examples(self._sizes, config.epochs)
        self.num_steps = math.ceil(self._total / config.batch_size)
        self.policy = make_policy(model, config)
        self.trainer = SftTrainer(self.policy, config, self.num_steps)
        self.digest = _digest(config, self._samples)

    def run(
        self,
        on_step: Callable[[SftReport], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Do the steps that are left. Returns the number of the last finished step."""
        done = saved = self._resume()
        for step in range(done + 1, self.num_steps):
            if should_stop():
                break
            report = self._step(step)
            done = step
            if (step + 1) % self.config.checkpoint_every == 0:
                saved = self._save(step)
            if on_step:
                on_step(report)
        if saved < done:
            self._save(done)
        return done

    def save_result(self) -> Path:
        """`adapter`, a PEFT directory, or `model`, a Hugging Face one."""
        return save_result(self.run_dir, self.policy.snapshot(), self._model, self.config.model)

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that were too long, by what was done to them."""
        return {
            "dropped": sum(file.num_dropped for file in self._files),
            "cut": sum(file.num_cut for file in self._files),
        }

    # -- internals ---------------------------------------------------------------

    def _resume(self) -> int:
        """Restore the last counted step and bring the records back to it."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        done = checkpoint.load(self.run_dir / "checkpoints", self.trainer, self.digest)
        (self.run_dir / "config.toml").write_text(to_toml(self.config))
        cut_steps(self.run_dir / "metrics.jsonl", done)
        return done

    def _step(self, step: int) -> SftReport:
        config = self.config
        numbers = examples_of(
            step, config.batch_size, self._sizes, config.mix, config.seed, self._total
        )
        update = self.trainer.update([self._samples[n] for n in numbers])
        report = self._record(step, numbers, update)
        with RecordWriter(self.run_dir / "metrics.jsonl") as metrics:
            metrics.write(report)
        plain = {k: float(v) for k, v in report.items() if isinstance(v, float | int)}
        return SftReport(step, self.num_steps, plain)

    def _record(self, step: int, numbers: list[int], update: UpdateReport) -> dict[str, Any]:
        seen = min((step + 1) * self.config.batch_size, self._total)
        return {
            "kind": "sft_step",
            "step": step,
            "examples": numbers,
            "epoch": seen / sum(self._sizes),
            "tokens": update.num_tokens,
            **update.metrics,
        }

    def _save(self, step: int) -> int:
        directory, keep = self.run_dir / "checkpoints", self.config.keep_checkpoints
        checkpoint.save(directory, step, self.trainer, self.digest, keep)
        return step


# -- internals ---------------------------------------------------------------


def _load(config: SftConfig, model: LoadedModel) -> list[Fitted]:
    if not config.data:
        raise ConfigError("data names no file; give JSON lines, e.g. data = ['rows.jsonl'].")
    limit = config.max_tokens or model.config.context
    if limit > model.config.context:
        raise ConfigError(
            f"max_tokens is {limit}, the context of {model.name} is {model.config.context}."
        )
    found = []
    for path in config.data:
        try:
            found.append(fit(read(path, model.tokenizer, config.train_on), limit, config.too_long))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    return found


def _digest(config: SftConfig, samples: list[TrainingSample]) -> str:
    """Of settings and data: a run goes on with what it began with."""
    found = hashlib.sha256(to_toml(config).encode())
    for sample in samples:
        found.update(repr((sample.prompt_ids, sample.response_ids, sample.loss_mask)).encode())
    return found.hexdigest()[:16]
