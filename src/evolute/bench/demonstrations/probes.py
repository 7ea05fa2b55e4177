"""What does a student know? Greedy answers to held-out problems, and what is seen in them.

ask(model, problems, config) -> Answers              long chains
skill_share(model, count, modulus, letters, config) -> share  single steps
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evolute.engine import Engine, EngineConfig
from evolute.envs.chains import grade_chain, read_chain
from evolute.models import LoadedModel
from evolute.reasoning.demonstrations.chains import check_steps, draw_exercise, solve
from evolute.reasoning.demonstrations.measures import measure
from evolute.types import Problem, SamplingParams

LONG, SHORT = 400, 200  # tokens of an answer


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
    texts = _greedy(model, problems, LONG, config)
    right = [grade_chain(text, p.gold) >= 1 for text, p in zip(texts, problems)]
    found = measure(texts, right, [read_chain(p.id) for p in problems])
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
    model: LoadedModel, count: int, modulus: int, letters: int, config: EngineConfig
) -> float:
    """Of the variables of `count` new exercises, those whose value is told right."""
    rng = random.Random("probe")
    chains = [draw_exercise(rng, modulus, letters) for _ in range(count)]
    traces = [solve(chain, rng) for chain in chains]
    texts = _greedy(model, [Problem(t.problem_id, t.prompt) for t in traces], SHORT, config)
    found = sum(check_steps(text, chain).num_true for text, chain in zip(texts, chains))
    return found / sum(len(chain.definitions) for chain in chains)


# -- internals ---------------------------------------------------------------


def _greedy(
    model: LoadedModel, asked: Sequence[Problem], limit: int, config: EngineConfig
) -> list[str]:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=limit)
    with Engine(model, config) as engine:
        prompts = [engine.tokenizer.chat(p.messages) for p in asked]
        return [output.text for output in engine.generate(prompts, sampling)]
