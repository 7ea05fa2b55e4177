"""One seed of the experiment on demonstrations: its data, its students, and what they answer.

    teach(folder, sizes, config) -> Taught       phase A: single steps, and chains of up to two
    Lab(folder, seed, sizes, config, taught)
        .variant(name) -> traces                 what that variant's student reads
        .answers(name) -> Answers                phase B, then greedy answers; kept in `folder`

Both go on where they were killed: runs by their checkpoints, answers by their files.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evolute.bench.demonstrations.probes import Answers, ask, skill_share
from evolute.engine import EngineConfig
from evolute.envs.chains import ChainTask, draw_chain, read_chain
from evolute.models import LoadedModel, LoraConfig, merge
from evolute.reasoning.demonstrations.chains import (
    SHORT,
    demonstrate,
    draw_exercise,
    solve,
    wrong_demonstration,
)
from evolute.reasoning.demonstrations.perturb import perturb
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.demonstrations.trace import Trace, training_row
from evolute.train.settings import OptimizerConfig
from evolute.train.sft import SftConfig, SftController

LORA = LoraConfig(rank=16)
EXERCISES = 0.65  # of the talks of phase A


@dataclass(frozen=True, slots=True)
class Sizes:
    """The student, what it learns, and how many held-out problems are asked."""

    width: int = 128
    num_layers: int = 4
    skills: int = 48_000
    skill_batch: int = 16
    skill_lr: float = 2e-3
    traces: int = 200
    epochs: int = 3
    lr: float = 1e-3
    lora_lr: float = 3e-3
    batch_size: int = 4
    heldout: int = 200
    steps: tuple[int, int] = (4, 6)
    traps: tuple[int, int] = (1, 2)
    modulus: int = 10
    letters: int = 12


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
        task = _task(sizes)
        train = task.problems("train", sizes.traces, seed)
        self._heldout = task.problems("heldout", sizes.heldout, seed)
        self.traces = [demonstrate(read_chain(p.id), rng) for p in train]
        self._shorts = [demonstrate(read_chain(p.id), rng, SHORT) for p in train]
        hows: tuple[Literal["slip", "random"], ...] = ("slip", "random")
        self._wrong = [
            wrong_demonstration(read_chain(p.id), rng, hows[i % 2]) for i, p in enumerate(train)
        ]

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
        lr = sizes.lora_lr if lora else sizes.lr
        place, traces = self._folder / name, self.variant(name)
        return _train(self._taught.model, place, traces, sizes, sizes.epochs, lr, self._seed, lora)


def teach(folder: Path, sizes: Sizes, config: EngineConfig) -> Taught:
    """The taught student that all variants start from: single steps, many at a time, and whole
    thoughts on chains of one or two. They are mixed, since what is not seen for a while is
    forgotten."""
    rng = random.Random("skills")
    talks = [_talk(rng, sizes) for _ in range(sizes.skills)]
    wide = replace(sizes, batch_size=sizes.skill_batch)
    model = student(0, sizes.width, sizes.num_layers)
    model = _train(model, folder / "skills", talks, wide, 1, sizes.skill_lr, 0)
    file = folder / "skills" / "skills.json"
    if not file.exists():
        share = skill_share(model, sizes.heldout, sizes.modulus, sizes.letters, config)
        _write(file, {"skills": share})
    return Taught(model, json.loads(file.read_text())["skills"])


# -- internals ---------------------------------------------------------------


def _task(sizes: Sizes) -> ChainTask:
    return ChainTask(
        steps=sizes.steps, traps=sizes.traps, modulus=sizes.modulus, letters=sizes.letters
    )


def _talk(rng: random.Random, sizes: Sizes) -> Trace:
    if rng.random() < EXERCISES:
        return solve(draw_exercise(rng, sizes.modulus, sizes.letters), rng)
    return demonstrate(draw_chain(rng, (1, 2), (0, 5), sizes.modulus, sizes.letters), rng)


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
    run.run()
    if lora and run.policy.lora:
        return replace(model, weights=merge(model.weights, run.policy.lora))
    return replace(model, weights=run.policy.base_weights())


def _write(file: Path, value: dict[str, Any]) -> None:
    """Whole, or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(file)
