"""What does a student know? Greedy answers to held-out problems, and what is seen in them.

ask(model, problems, config) -> Answers              long walks
skill_share(model, count, modulus, times, config) -> share  single steps
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evolute.engine import Engine, EngineConfig
from evolute.envs.walks import draw_walk, grade_walk, read_walk
from evolute.models import LoadedModel
from evolute.reasoning.demonstrations.measures import measure, thought_of
from evolute.reasoning.demonstrations.trace import THOUGHT
from evolute.reasoning.demonstrations.walks import check_walk, exercise, plan_of
from evolute.types import Problem, SamplingParams

LONG, SHORT = 200, 12  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one student: which problems were right, and means of the signs."""

    right: list[bool]
    words: float
    reflections: float
    first_goes_back: float
    unfinished: float
    coherence: float
    valid: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def told(self) -> str:
        """One line for whoever waits."""
        return (
            f"{self.accuracy:.3f} right, {self.words:.0f} words, coherence {self.coherence:.2f}, "
            f"{self.first_goes_back:.2f} begin by going back"
        )


def ask(model: LoadedModel, problems: Sequence[Problem], config: EngineConfig) -> Answers:
    prompts = [model.tokenizer.chat(p.messages) for p in problems]
    texts = _greedy(model, prompts, LONG, config)
    right = [grade_walk(text, p.gold) >= 1 for text, p in zip(texts, problems)]
    checks = [check_walk(thought_of(text), read_walk(p.id)) for text, p in zip(texts, problems)]
    found = measure(texts, right, checks)
    return Answers(
        right=right,
        words=found.words,
        reflections=found.reflections,
        first_goes_back=found.first_goes_back,
        unfinished=found.unfinished,
        coherence=found.coherence or 0.0,
        valid=found.valid or 0.0,
    )


def skill_share(
    model: LoadedModel, count: int, modulus: int, times: int, config: EngineConfig
) -> float:
    """Of `count` single steps at any place of a walk of up to `times`, those done right."""
    rng, right = random.Random("probe"), 0
    walks = [draw_walk(rng, (1, times), modulus) for _ in range(count)]
    asked = exercise(rng, modulus, times).prompt
    prompts = [
        model.tokenizer.chat(asked) + model.tokenizer.encode(f"{THOUGHT}\n\n{plan_of(w).text}\n\n")
        for w in walks
    ]
    for walk, text in zip(walks, _greedy(model, prompts, SHORT, config)):
        step = check_walk(text.partition("\n\n")[0], walk)
        right += step.num_grounded == step.num_true == 1
    return right / count


# -- internals ---------------------------------------------------------------


def _greedy(
    model: LoadedModel, prompts: Sequence[Sequence[int]], limit: int, config: EngineConfig
) -> list[str]:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=limit)
    with Engine(model, config) as engine:
        return [output.text for output in engine.generate(prompts, sampling)]
