"""Tasks of the reasoning-gym package: procedural problems, each family with its own verifier.

reasoning-gym:FAMILY     e.g. reasoning-gym:chain_sum
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolute.envs.base import TextEnv, split_of
from evolute.types import ConfigError, Env, Problem, RewardError
from evolute.types.settings import nearest

BATCH = 500


@dataclass(frozen=True, slots=True)
class GymTask:
    """One family. Its own score decides the reward; 1 counts as correct."""

    name: str
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 24
    suffix: str = "\nAnswer with the result only."

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        found: dict[str, Problem] = {}
        for batch in range(40):
            before = len(found)
            for entry in _entries(self.family, seed * 1000 + batch, self.options):
                question = entry["question"]
                if split_of(question) == split and question not in found:
                    found[question] = self._problem(entry)
                if len(found) == count:
                    return list(found.values())
            if batch > 3 and len(found) == before:
                break
        raise ConfigError(
            f"task {self.name!r} has only {len(found)} problems in split {split!r}, {count} were "
            "asked for; ask for fewer."
        )

    def make(self, problem: Problem) -> Env:
        entry = problem.extras["entry"]

        def grade(action: str) -> float:
            try:
                score = _dataset(self.family, 0, 1, self.options).score_answer(
                    _clean(action), entry
                )
            except Exception as error:
                raise RewardError(f"the verifier of {self.name} failed: {error}") from error
            return 1.0 if float(score) >= 1.0 else 0.0

        return TextEnv(grade)

    def _problem(self, entry: dict[str, Any]) -> Problem:
        text = entry["question"] + self.suffix
        return Problem(
            entry["question"],
            ({"role": "user", "content": text},),
            str(entry["answer"]),
            {"entry": entry},
        )


def gym_task(name: str, **options: Any) -> GymTask:
    """The task `reasoning-gym:FAMILY`. Raises ConfigError for an unknown family."""
    family = name.partition(":")[2]
    from reasoning_gym.factory import DATASETS

    if family not in DATASETS:
        raise ConfigError(f"reasoning-gym has no family {family!r}. {nearest(family, DATASETS)}")
    return GymTask(name, family, options)


def _entries(family: str, seed: int, options: Mapping[str, Any]) -> Any:
    return _dataset(family, seed, BATCH, options)


def _dataset(family: str, seed: int, size: int, options: Mapping[str, Any]) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(family, seed=seed, size=size, **options)


def _clean(action: str) -> str:
    return action.strip().removesuffix(".").strip()
