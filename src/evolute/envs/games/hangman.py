"""Find a word letter by letter, or all at once.

    hangman_task("hangman?letters=5&lives=6&shown=2")

A letter that is not in the word, or a wrong word, costs a life. `shown` letters are open from the
start. The reward is 1 when the word is found.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evolute.envs.games.vocabulary import words_of
from evolute.envs.puzzles.task import between, read_options
from evolute.types import ConfigError, Env, Message, Problem, StepResult

FAMILY = "hangman"
PATIENCE = 2000
MAX_TURNS = 40
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class HangmanTask:
    name: str
    letters: int
    lives: int
    shown: int
    max_new_tokens: int = 12

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split; no word is in both."""
        source = random.Random(f"{self.name}/{split}/{seed}")
        words = words_of(self.letters, split)
        found: dict[str, Problem] = {}
        vain = 0
        while len(found) < count and vain < PATIENCE:
            secret = source.choice(words)
            open_ = tuple(
                sorted(source.sample(sorted(set(secret)), min(self.shown, self._most(secret))))
            )
            key = f"hangman {secret} with {''.join(open_) or 'nothing'}"
            vain += 1
            if key not in found:
                message: Message = {"role": "user", "content": self._ask(secret, open_)}
                found[key] = Problem(key, (message,), secret, {"open": list(open_)})
                vain = 0
        if len(found) < count:
            raise ConfigError(
                f"task {self.name!r} has only {len(found)} problems in split {split!r}, {count} "
                "were asked for; ask for fewer, or set shown."
            )
        return list(found.values())

    def make(self, problem: Problem) -> Env:
        return Hangman(problem.gold, self.lives, problem.extras.get("open", ()))

    @staticmethod
    def _most(secret: str) -> int:
        return len(set(secret)) - 1

    def _ask(self, secret: str, open_: Sequence[str]) -> str:
        return (
            f"I think of a word: {pattern(secret, open_)}\nGuess a letter, or the whole word. "
            f"{self.lives} mistakes lose the game. Answer with one letter or one word."
        )


class Hangman:
    """One game."""

    def __init__(self, secret: str, lives: int, open_: Sequence[str]) -> None:
        self._secret, self._lives, self._open = secret, lives, set(open_)
        self._tried: set[str] = set()
        self.turns = 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        guess = self._guess(action)
        told = self._told(guess)
        is_found = guess == self._secret or set(self._secret) <= self._open
        if is_found or self._lives <= 0 or self.turns >= MAX_TURNS:
            return StepResult(reward=float(is_found))
        text = f"{told} {pattern(self._secret, self._open)}\n{self._lives} mistakes left."
        return StepResult(({"role": "user", "content": text},), 0.0, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"guesses": float(self.turns), "lives": float(max(0, self._lives))}

    # -- internals ---------------------------------------------------------------

    def _guess(self, action: str) -> str | None:
        """The last word that is one letter, or as long as the secret."""
        lengths = (1, len(self._secret))
        words = [word.lower() for word in _WORD.findall(action) if len(word) in lengths]
        return words[-1] if words else None

    def _told(self, guess: str | None) -> str:
        if guess is None:
            self._lives -= 1
            return f"Say one letter, or a word of {len(self._secret)} letters."
        if guess in self._tried or guess in self._open:
            self._lives -= 1
            return f"{guess} was there before."
        self._tried.add(guess)
        if len(guess) == 1 and guess in self._secret:
            self._open.add(guess)
            return "Yes."
        self._lives -= guess != self._secret
        return "No."


def pattern(secret: str, open_: Sequence[str] | set[str]) -> str:
    return " ".join(letter if letter in open_ else "_" for letter in secret)


def hangman_task(name: str) -> HangmanTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, {"letters": 5, "lives": 6, "shown": 0})
    number = partial(between, FAMILY, options)
    return HangmanTask(name, number("letters", 4, 6), number("lives", 1, 12), number("shown", 0, 4))
