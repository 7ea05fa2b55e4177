"""Find a word: each guess is marked letter by letter.

    wordle_task("wordle?letters=5&turns=6&options=8")

With `options` the question names that many words, one of which it is; 0 names none. The reward is
1 when the word is found in time. Marks: G right place, Y elsewhere in the word, - not in it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.games.vocabulary import words_of
from evolute.envs.puzzles.task import between, read_options
from evolute.types import ConfigError, Env, Message, Problem, StepResult

FAMILY = "wordle"
PATIENCE = 2000
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class WordleTask:
    name: str
    letters: int
    turns: int
    options: int
    max_new_tokens: int = 24

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split. No word of one split is in the other's, not even
        as an option."""
        source = random.Random(f"{self.name}/{split}/{seed}")
        words = words_of(self.letters, split)
        found: dict[str, Problem] = {}
        vain = 0
        while len(found) < count and vain < PATIENCE:
            chosen = source.sample(words, min(max(1, self.options), len(words)))
            secret = chosen[0]
            shown = sorted(chosen) if self.options else []
            key = f"wordle {secret}" + (f" of {' '.join(shown)}" if shown else "")
            vain += 1
            if key not in found:
                message: Message = {"role": "user", "content": self._ask(shown)}
                found[key] = Problem(key, (message,), secret)
                vain = 0
        if len(found) < count:
            raise ConfigError(
                f"task {self.name!r} has only {len(found)} problems in split {split!r}, {count} "
                "were asked for; ask for fewer, or set options."
            )
        return list(found.values())

    def make(self, problem: Problem) -> Env:
        return Wordle(problem.gold, self.turns)

    def _ask(self, shown: Sequence[str]) -> str:
        text = (
            f"I think of a word of {self.letters} letters; you have {self.turns} guesses. I mark "
            "each letter: G right place, Y in the word at another place, - not in the word."
        )
        if shown:
            text += f" It is one of: {', '.join(shown)}."
        return text + " Answer with one word."


class Wordle:
    """One game."""

    def __init__(self, secret: str, turns: int) -> None:
        self._secret, self._turns = secret, turns
        self.turns, self.num_bad = 0, 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        guess = guess_of(action, len(self._secret))
        if guess == self._secret:
            return StepResult(reward=1.0)
        if self.turns >= self._turns:
            return StepResult(reward=0.0)
        left = self._turns - self.turns
        if guess is None:
            self.num_bad += 1
            told = f"That is no word of {len(self._secret)} letters."
        else:
            told = f"{' '.join(guess.upper())}\n{' '.join(marks(self._secret, guess))}"
        text = f"{told}\n{left} {'guesses' if left > 1 else 'guess'} left."
        return StepResult(({"role": "user", "content": text},), 0.0, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"guesses": float(self.turns), "bad_guesses": float(self.num_bad)}


def wordle_task(name: str) -> WordleTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, {"letters": 5, "turns": 6, "options": 0})
    return WordleTask(
        name,
        between(FAMILY, options, "letters", 4, 6),
        between(FAMILY, options, "turns", 1, 20),
        between(FAMILY, options, "options", 0, 30),
    )


def guess_of(action: str, length: int) -> str | None:
    """The last word of that length, in small letters."""
    words = [word.lower() for word in _WORD.findall(action) if len(word) == length]
    return words[-1] if words else None


def marks(secret: str, guess: str) -> str:
    """A letter is Y as often as it is in the word and not yet G or Y, from the left."""
    left = Counter(s for s, g in zip(secret, guess) if s != g)
    found = []
    for s, g in zip(secret, guess):
        if s == g:
            found.append("G")
        elif left[g] > 0:
            left[g] -= 1
            found.append("Y")
        else:
            found.append("-")
    return "".join(found)
