"""One seed of the experiment on demonstrations: its data, its students, and what they answer.

    teach(folder, sizes, config) -> Taught       phase A: single steps, and walks of up to two
    Lab(folder, seed, sizes, config, taught)
        .variant(name) -> traces                 what that variant's student reads
        .answers(name) -> Answers                phase B, then greedy answers; kept in `folder`

Both go on where they were killed: runs by their checkpoints, answers by their files.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save_file

from evolute.bench.demonstrations.probes import Answers, ask, skill_share
from evolute.bench.told import tell
from evolute.engine import EngineConfig
from evolute.envs.walks import WalkTask, draw_walk, read_walk
from evolute.models import LoadedModel, LoraConfig, ModelWeights, merge
from evolute.reasoning.demonstrations.chains import SHORT
from evolute.reasoning.demonstrations.perturb import perturb
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.demonstrations.trace import Trace, training_row
from evolute.reasoning.demonstrations.walks import (
    demonstrate_walk,
    exercise,
    sums,
    wrong_walk,
)
from evolute.train.settings import OptimizerConfig
from evolute.train.sft import SftConfig, SftController, SftReport

LORA = LoraConfig(rank=16, alpha=32.0)  # 32 % as many weights as this small student has
EXERCISES = 0.6  # of the talks of phase A that are no sums
SUMS = {"skills": 0.0, "sums": 0.9, "mixed": 0.3}  # of the talks of each stage of it
TOLD = 25  # steps between two lines of progress


@dataclass(frozen=True, slots=True)
class Sizes:
    """The student, what it learns, and how many held-out problems are asked."""

    width: int = 64
    num_layers: int = 2
    skills: int = 12_800
    skill_batch: int = 32
    skill_lr: float = 5e-3
    sums: int = 12_800
    mixed: int = 4_800
    sum_batch: int = 8
    sum_lr: float = 3e-3
    short: tuple[int, int] = (1, 2)
    traces: int = 8_000
    epochs: int = 1
    lr: float = 1e-3
    lora_lr: float = 5e-3
    lora_epochs: int = 3  # in one an adapter may stay on the plateau that all weights leave
    batch_size: int = 8
    heldout: int = 200
    times: tuple[int, int] = (5, 8)
    modulus: int = 10


@dataclass(frozen=True, slots=True)
class Taught:
    """The student after phase A, and the share of new single steps it does right."""

    model: LoadedModel
    skills: float


class Lab:
    """One seed: data, edits, order, held-out problems."""

    def __init__(
        self, folder: Path, seed: int, sizes: Sizes, config: EngineConfig, taught: Taught
    ) -> None:
        self._folder, self._seed, self._sizes, self._config = folder, seed, sizes, config
        self._taught = taught
        rng = random.Random(f"lab/{seed}")
        task = WalkTask(times=sizes.times, modulus=sizes.modulus)
        train = task.problems("train", sizes.traces, seed)
        self._heldout = task.problems("heldout", sizes.heldout, seed)
        self.traces = [demonstrate_walk(read_walk(p.id), rng) for p in train]
        self._shorts = [demonstrate_walk(read_walk(p.id), rng, SHORT) for p in train]
        hows: tuple[Literal["slip", "random"], ...] = ("slip", "random")
        self._wrong = [wrong_walk(read_walk(p.id), rng, hows[i % 2]) for i, p in enumerate(train)]

    def variant(self, name: str) -> list[Trace]:
        """The traces as that variant has them; an adapter learns from the right ones."""
        kind, _, rest = name.partition("-")
        whole = {"correct": self.traces, "lora": self.traces, "short": self._shorts}
        if kind in whole or kind == "wrong":
            return whole.get(kind, self._wrong)
        share, _, place = rest.partition("-")
        full = {"digits": "corrupt_digits", "keywords": "drop_keywords"}.get(kind, kind)
        within: dict[str, Any] = {}
        if kind == "digits":
            within["within"] = "both" if place else "thought"
        return perturb(self.traces, full, int(share) / 100, self._seed, **within)

    def answers(self, name: str) -> Answers:
        """Of the student of that variant, or of the taught one for `base`."""
        file = self._folder / f"{name}.json"
        if file.exists():
            return Answers(**json.loads(file.read_text()))
        model = self._taught.model if name == "base" else self._student_of(name)
        found = ask(model, self._heldout, self._config)
        _write(file, asdict(found))
        shutil.rmtree(self._folder / name, ignore_errors=True)
        return found

    # -- internals ---------------------------------------------------------------

    def _student_of(self, name: str) -> LoadedModel:
        sizes, lora = self._sizes, LORA if name == "lora" else None
        lr, epochs = (sizes.lora_lr, sizes.lora_epochs) if lora else (sizes.lr, sizes.epochs)
        place, traces = self._folder / name, self.variant(name)
        return _train(self._taught.model, place, traces, sizes, epochs, lr, self._seed, lora)


def teach(folder: Path, sizes: Sizes, config: EngineConfig) -> Taught:
    """The taught student that all variants start from: first how a step is written, at any place,
    and whole thoughts on walks of one or two; then the sums, by many small updates (four
    times as many talks at once learn them later, or not); then all of it mixed, since what is not
    seen for a while is forgotten."""
    rng = random.Random("skills")
    wide = sizes.skill_batch, sizes.skill_lr
    model = student(0, sizes.width, sizes.num_layers, spread=sizes.width**-0.5)
    for name, share in SUMS.items():
        talks = [_talk(rng, sizes, share) for _ in range(getattr(sizes, name))]
        batch, lr = (sizes.sum_batch, sizes.sum_lr) if share else wide
        stage = replace(sizes, batch_size=batch)
        model = _train(model, folder / name, talks, stage, 1, lr, 0)
    file = folder / "mixed" / "skills.json"
    if not file.exists():
        share = skill_share(model, sizes.heldout, sizes.modulus, sizes.times[1], config)
        _write(file, {"skills": share})
    return Taught(model, json.loads(file.read_text())["skills"])


# -- internals ---------------------------------------------------------------


def _talk(rng: random.Random, sizes: Sizes, share: float) -> Trace:
    """Sums with the probability `share`."""
    if share and rng.random() < share:
        return sums(rng, sizes.modulus)
    if rng.random() < EXERCISES:
        return exercise(rng, sizes.modulus, sizes.times[1])
    return demonstrate_walk(draw_walk(rng, sizes.short, sizes.modulus), rng)


def _train(
    model: LoadedModel,
    place: Path,
    traces: Sequence[Trace],
    sizes: Sizes,
    epochs: int,
    lr: float,
    seed: int,
    lora: LoraConfig | None = None,
) -> LoadedModel:
    """The model after a supervised run in `place`; an adapter is merged."""
    done = place / "weights.safetensors"
    if done.exists():
        return replace(model, weights=ModelWeights(load_file(done)))
    place.mkdir(parents=True, exist_ok=True)
    rows = place / "rows.jsonl"
    rows.write_text("".join(json.dumps(training_row(trace)) + "\n" for trace in traces))
    config = SftConfig(
        model=model.name,
        data=(str(rows),),
        epochs=epochs,
        batch_size=sizes.batch_size,
        micro_batch_tokens=8192,
        method="lora" if lora else "full",
        lora=lora or LoraConfig(),
        optimizer=OptimizerConfig(lr=lr, warmup_steps=20, beta2=0.98),
        seed=seed,
        checkpoint_every=100,
    )
    run = SftController(config, place / "run", model)
    run.run(_told(place))
    adapter = run.policy.lora
    weights = merge(model.weights, adapter) if adapter else run.policy.base_weights()
    temporary = done.with_suffix(".tmp")
    save_file({name: weights.dense(name) for name in weights}, temporary)
    temporary.replace(done)
    return replace(model, weights=weights)


def _told(place: Path) -> Callable[[SftReport], None]:
    """Says how far a run is, now and then."""

    def on_step(report: SftReport) -> None:
        if (report.step + 1) % TOLD == 0:
            far = f"step {report.step + 1} of {report.num_steps}"
            tell(f"{place.parent.name} {place.name}: {far}, loss {report.metrics['loss']:.3f}")

    return on_step


def _write(file: Path, value: dict[str, Any]) -> None:
    """Whole, or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(file)
