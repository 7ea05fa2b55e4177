"""Which changes to its demonstrations does a student feel? A controlled experiment in minutes.

    phase A   an untrained student learns single operations and short chains with short answers
    phase B   from there, each variant of the same long traces: right, without thoughts, content
              corrupted, structure edited; all weights, and an adapter once
    figures   accuracy on held-out chains by variant, the share of the gain that is kept, signs

`repeats` are seeds; each draws its own data, edits and order. After arXiv 2502.07374, with a model
that knows how to do a step before it learns how to put steps together.
"""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evolute.bench.result import BenchResult, summarize
from evolute.engine import Engine, EngineConfig
from evolute.envs.chains import ChainTask, grade_chain, read_chain
from evolute.models import LoadedModel, LoraConfig, merge
from evolute.reasoning.demonstrations.chains import (
    SHORT,
    demonstrate,
    skill,
    wrong_demonstration,
)
from evolute.reasoning.demonstrations.measures import Measures, gain_kept, measure
from evolute.reasoning.demonstrations.perturb import perturb
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.demonstrations.trace import Trace, training_row
from evolute.train.settings import OptimizerConfig
from evolute.train.sft import SftConfig, SftController
from evolute.types import ConfigError, Problem, SamplingParams

LONG, TRAPS, MODULUS = (6, 10), (2, 4), 10
STRUCTURE = tuple(
    f"{kind}-{share}" for kind in ("shuffle", "delete", "insert") for share in (33, 67, 100)
)
CONTENT = ("wrong", "digits-50", "digits-100", "keywords-100")
VARIANTS = ("correct", "short", *CONTENT, "digits-100-solution", *STRUCTURE)
FEW = (
    "correct",
    "short",
    "wrong",
    "digits-50",
    "keywords-100",
    "shuffle-67",
    "delete-67",
    "insert-67",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is learned, and how many held-out problems are asked."""

    skills: int = 16_000
    skill_epochs: int = 2
    traces: int = 1_000
    epochs: int = 3
    heldout: int = 300


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "student",
    config: EngineConfig | None = None,
    repeats: int = 3,
    sizes: Sizes | None = None,
    variants: Sequence[str] | None = None,
    on_result: Callable[[str], None] | None = None,
) -> BenchResult:
    """Train and ask a student for each seed and variant; `quick` has a twentieth of everything.
    Raises ConfigError for a model: the student is the experiment's own."""
    if model not in ("student", "smollm2-135m"):
        raise ConfigError("bench demonstrations trains a student of its own; drop --model.")
    sizes = sizes or (Sizes(800, 1, 50, 1, 20) if quick else Sizes())
    chosen = tuple(variants or (FEW if quick else VARIANTS))
    rounds = []
    for seed in range(repeats):
        figures = one_seed(seed, sizes, chosen, config or EngineConfig(), on_result)
        rounds.append(figures)
    median, spread = summarize(rounds)
    settings = {"sizes": dataclasses.asdict(sizes), "variants": list(chosen)}
    return BenchResult("demonstrations", settings, median, repeats, spread)


def one_seed(
    seed: int,
    sizes: Sizes,
    variants: Sequence[str],
    config: EngineConfig,
    on_result: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Figures of one seed, by name."""
    tell = on_result or (lambda text: None)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), seed, sizes, config)
        base = lab.ask(lab.taught)
        found = {f"accuracy/{name}": value.accuracy for name, value in (("base", base),)}
        found["skills"] = lab.skills()
        tell(f"seed {seed} base {base.accuracy:.3f} skills {found['skills']:.3f}")
        results: dict[str, Measures] = {}
        for name in variants:
            results[name] = lab.ask(lab.student_of(name))
            tell(f"seed {seed} {name} {results[name]}")
        results["lora"] = lab.ask(lab.student_of("correct", lora=LoraConfig(rank=16)))
        tell(f"seed {seed} lora {results['lora']}")
    right = results["correct"].accuracy
    for name, one in results.items():
        found[f"accuracy/{name}"] = one.accuracy
        found[f"kept/{name}"] = gain_kept(base.accuracy, right, one.accuracy)
        found[f"words/{name}"] = one.words
        found[f"first_goes_back/{name}"] = one.first_goes_back
        found[f"coherence/{name}"] = one.coherence or 0.0
    return found


class Lab:
    """One seed: data, the taught student, and what becomes of it."""

    def __init__(self, folder: Path, seed: int, sizes: Sizes, config: EngineConfig) -> None:
        self._folder, self._seed, self._sizes, self._config = folder, seed, sizes, config
        rng = random.Random(f"lab/{seed}")
        self._rng = rng
        task = ChainTask(steps=LONG, traps=TRAPS, modulus=MODULUS)
        train = task.problems("train", sizes.traces, seed)
        self._heldout = task.problems("heldout", sizes.heldout, seed)
        self.traces = [demonstrate(read_chain(p.id), rng) for p in train]
        self._shorts = [demonstrate(read_chain(p.id), rng, SHORT) for p in train]
        hows: tuple[Literal["slip", "random"], ...] = ("slip", "random")
        self._wrong = [
            wrong_demonstration(read_chain(p.id), rng, hows[i % 2]) for i, p in enumerate(train)
        ]
        skills = [skill(rng, MODULUS) for _ in range(sizes.skills)]
        self.taught = self._train(student(seed), "skills", skills, sizes.skill_epochs, 2e-3)

    def variant(self, name: str) -> list[Trace]:
        """The traces as that variant has them."""
        kind, _, rest = name.partition("-")
        if kind in ("correct", "short", "wrong"):
            return {"correct": self.traces, "short": self._shorts, "wrong": self._wrong}[kind]
        share, _, place = rest.partition("-")
        full = {"digits": "corrupt_digits", "keywords": "drop_keywords"}.get(kind, kind)
        within: dict[str, Any] = {}
        if kind == "digits":
            within["within"] = "both" if place else "thought"
        return perturb(self.traces, full, int(share) / 100, self._seed, **within)

    def student_of(self, name: str, lora: LoraConfig | None = None) -> LoadedModel:
        """The taught student after one variant's lessons; an adapter is merged."""
        return self._train(self.taught, name, self.variant(name), self._sizes.epochs, 1e-3, lora)

    def ask(self, model: LoadedModel) -> Measures:
        """Greedy answers to the held-out problems."""
        texts = self._answers(model, self._heldout, 640)
        right = [grade_chain(text, p.gold) >= 1 for text, p in zip(texts, self._heldout)]
        return measure(texts, right, [read_chain(p.id) for p in self._heldout])

    def skills(self) -> float:
        """Share of single operations and short chains that the taught student does right."""
        rng = random.Random(f"probe/{self._seed}")
        probes = [skill(rng, MODULUS) for _ in range(self._sizes.heldout)]
        asked = [Problem(t.problem_id, t.prompt, t.solution) for t in probes]
        texts = self._answers(self.taught, asked, 160)
        right = [grade_chain(text, p.gold.split()[-1]) >= 1 for text, p in zip(texts, asked)]
        return sum(right) / len(right)

    # -- internals ---------------------------------------------------------------

    def _answers(self, model: LoadedModel, asked: Sequence[Problem], limit: int) -> list[str]:
        sampling = SamplingParams(temperature=0.0, max_new_tokens=limit)
        with Engine(model, self._config) as engine:
            prompts = [engine.tokenizer.chat(p.messages) for p in asked]
            return [output.text for output in engine.generate(prompts, sampling)]

    def _train(
        self,
        model: LoadedModel,
        name: str,
        traces: Sequence[Trace],
        epochs: int,
        lr: float,
        lora: LoraConfig | None = None,
    ) -> LoadedModel:
        place = self._folder / f"{name}{'-lora' if lora else ''}"
        place.mkdir()
        rows = place / "rows.jsonl"
        rows.write_text("".join(json.dumps(training_row(trace)) + "\n" for trace in traces))
        optimizer = OptimizerConfig(lr=lr * (3 if lora else 1), warmup_steps=20, beta2=0.98)
        config = SftConfig(
            model=model.name,
            data=(str(rows),),
            epochs=epochs,
            batch_size=32,
            micro_batch_tokens=8192,
            method="lora" if lora else "full",
            lora=lora or LoraConfig(),
            optimizer=optimizer,
            seed=self._seed,
            checkpoint_every=1_000_000,
        )
        run = SftController(config, place / "run", model)
        run.run()
        if lora and run.policy.lora:
            return dataclasses.replace(model, weights=merge(model.weights, run.policy.lora))
        return dataclasses.replace(model, weights=run.policy.base_weights())
