"""Tasks of the reasoning-gym package: procedural problems, each family with its own verifier.

    gym_task("reasoning-gym:chain_sum?max_terms=2")

Options are part of the name (`gym_options.py`), so that one text in a recipe, on the command line
and in a report says what was asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evolute.envs.base import TextEnv, split_of
from evolute.envs.gym_options import GymName, make_dataset, parse_name
from evolute.types import ConfigError, Env, Problem, RewardError

BATCH, BATCHES = 500, 40  # problems made at a time; batches before a family counts as small
GOLD = ("example_answer", "example_correct_answer", "possible_answer")  # where several are right
NONSENSE = "no idea"
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class GymTask:
    """One family. Its own score decides: 1 is right, everything below earns nothing."""

    name: str
    parts: GymName
    suffix: str = "\nAnswer with the result only."

    @property
    def max_new_tokens(self) -> int:
        return self.parts.max_new_tokens

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed.

        Raises ConfigError when the family has fewer, or when its verifier and its own answer
        to the first one do not agree.
        """
        found: dict[str, Problem] = {}
        for entry in _entries(self.parts, seed):
            question = entry["question"]
            if split_of(question) == split and question not in found:
                found[question] = self._problem(entry)
                if len(found) == 1:
                    self._check(found[question])
            if len(found) >= count:
                return list(found.values())[:count]
        raise ConfigError(
            f"task {self.name!r} has only {len(found)} problems in split {split!r}, {count} were "
            "asked for; ask for fewer."
        )

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: self._grade(action, problem))

    # -- internals ---------------------------------------------------------------

    def _problem(self, entry: Mapping[str, Any]) -> Problem:
        text = entry["question"] + self.suffix
        gold, extras = self._gold(entry), {"entry": entry}
        return Problem(entry["question"], ({"role": "user", "content": text},), gold, extras)

    def _gold(self, entry: Mapping[str, Any]) -> str:
        examples = (entry["metadata"].get(key) for key in GOLD)
        answers = [a for a in (entry["answer"], *examples) if a is not None]
        if not answers:
            raise ConfigError(
                f"{self.name} gives no answer to its own problems, so nobody can tell whether its "
                "verifier works; choose another family."
            )
        return json.dumps(answers[0]) if isinstance(answers[0], dict | list) else str(answers[0])

    def _check(self, problem: Problem) -> None:
        for action, is_right in ((problem.gold, True), (NONSENSE, False)):
            reward = self._grade(action, problem)
            if (reward >= 1.0) != is_right:
                raise ConfigError(
                    f"the verifier of {self.name} gives {action!r} a reward of {reward} on "
                    f"{problem.id[:200]!r}; choose another family or other options."
                )

    def _grade(self, action: str, problem: Problem) -> float:
        """What the verifier cannot read is wrong, as long as it can read the gold answer;
        otherwise the reward is not valid: RewardError."""
        entry = problem.extras["entry"]
        try:
            forms = answer_forms(action, problem.gold, self.parts.answer)
            return float(any(self._is_right(form, entry) for form in forms))
        except Exception as error:
            try:
                if self._is_right(problem.gold, entry):
                    return 0.0
            except Exception:
                pass
            raise RewardError(f"the verifier of {self.name} failed: {error!r}") from error

    def _is_right(self, text: str, entry: Mapping[str, Any]) -> bool:
        return bool(float(_verifier(self.parts).score_answer(text, entry)) >= 1.0)


def gym_task(name: str) -> GymTask:
    """The task `reasoning-gym:FAMILY?option=value&...`. Raises ConfigError for an unknown one."""
    return GymTask(name, parse_name(name))


def answer_forms(action: str, gold: str, answer: str) -> list[str]:
    """What of a text is judged: its last number where the right answer is a number (thousands'
    commas dropped), else the whole of it, with and without a full stop at the end."""
    is_number = NUMBER.fullmatch(gold.strip()) is not None
    if answer == "number" or (answer == "auto" and is_number):
        return [number.replace(",", "") for number in NUMBER.findall(action)[-1:]]
    text = action.strip()
    return list(dict.fromkeys((text, text.removesuffix(".").strip())))


# -- internals ---------------------------------------------------------------


def _entries(parts: GymName, seed: int) -> Iterator[dict[str, Any]]:
    """Batch after batch, until two bring no new question. Problem i of a data set comes from
    seed + i, so the batches' seeds lie a batch apart."""
    seen: set[str] = set()
    idle = 0
    for batch in range(BATCHES):
        before = len(seen)
        for entry in make_dataset(parts, (seed * BATCHES + batch) * BATCH, BATCH):
            seen.add(entry["question"])
            yield entry
        idle = 0 if len(seen) > before else idle + 1
        if idle == 2:
            return


@lru_cache(maxsize=64)
def _verifier(parts: GymName) -> Any:
    return make_dataset(parts, 0, 1)
