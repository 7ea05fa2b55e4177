"""Small tasks on letters and words, and a game of several turns.

reverse-word, last-letters, count-letter, sort-letters, guess-number
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evolute.envs.arithmetic import NUMBER
from evolute.envs.base import Draw, TextEnv, draw_problems
from evolute.types import Env, Message, Problem, StepResult

SYLLABLES = ("ba", "ko", "ri", "ten", "lu", "mas", "do", "vel", "ni", "sa", "por", "ge")


@dataclass(frozen=True, slots=True)
class WordTask:
    """Questions on made-up words; the answer is the last word of the text."""

    name: str
    ask: Draw
    max_new_tokens: int = 16

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        return draw_problems(self.name, self.ask, split, count, seed)

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: grade_word(action, problem.gold))


@dataclass(frozen=True, slots=True)
class GuessTask:
    """Find a number by "higher" and "lower"; the reward is 1 when found in time."""

    name: str = "guess-number"
    max_new_tokens: int = 12
    max_turns: int = 6

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        return draw_problems(self.name, _ask_guess, split, count, seed)

    def make(self, problem: Problem) -> Env:
        return _Guess(int(problem.gold), self.max_turns)


class _Guess:
    def __init__(self, secret: int, max_turns: int) -> None:
        self._secret, self._max_turns, self.turns = secret, max_turns, 0

    def init(self, prompt: Sequence[Message]) -> tuple[list[Message], dict[str, Any]]:
        return list(prompt), {}

    def step(self, action: str) -> StepResult:
        self.turns += 1
        numbers = NUMBER.findall(action)
        guess = int(numbers[-1].replace(",", "")) if numbers else None
        if guess == self._secret:
            return StepResult(reward=1.0)
        if self.turns >= self._max_turns:
            return StepResult(reward=0.0)
        hint = "Say a number." if guess is None else "lower" if guess > self._secret else "higher"
        return StepResult(({"role": "user", "content": hint},), 0.0, done=False)

    def close(self) -> None:
        """Nothing to release."""

    def get_metrics(self) -> dict[str, float]:
        return {"turns": float(self.turns)}


def grade_word(action: str, gold: str) -> float:
    """1 if the last word of the text is the gold one, without regard to case and marks."""
    words = action.split()
    return float(bool(words) and words[-1].strip(".,!?\"'`*").lower() == gold.lower())


def word_tasks() -> dict[str, WordTask | GuessTask]:
    """All tasks of this file by name."""
    asks = {
        "reverse-word": _ask_reverse,
        "last-letters": _ask_last,
        "count-letter": _ask_count,
        "sort-letters": _ask_sort,
    }
    tasks: dict[str, WordTask | GuessTask] = {n: WordTask(n, ask) for n, ask in asks.items()}
    return tasks | {"guess-number": GuessTask()}


# -- internals ---------------------------------------------------------------


def _word(source: random.Random, low: int = 2, high: int = 3) -> str:
    return "".join(source.choices(SYLLABLES, k=source.randint(low, high)))


def _ask_reverse(source: random.Random) -> tuple[str, str]:
    word = _word(source)
    return f'Write "{word}" backwards. Answer with one word.', word[::-1]


def _ask_last(source: random.Random) -> tuple[str, str]:
    words = [_word(source) for _ in range(3)]
    text = ", ".join(words)
    return f"Join the last letters of: {text}. Answer with one word.", "".join(w[-1] for w in words)


def _ask_count(source: random.Random) -> tuple[str, str]:
    word = _word(source, 3, 5)
    letter = source.choice(word)
    text = f'How many times does "{letter}" occur in "{word}"? Answer with the number only.'
    return text, str(word.count(letter))


def _ask_sort(source: random.Random) -> tuple[str, str]:
    word = _word(source)
    text = f'Sort the letters of "{word}" from a to z. Answer with one word.'
    return text, "".join(sorted(word))


def _ask_guess(source: random.Random) -> tuple[str, str]:
    high = source.randint(10, 999)
    secret = source.randint(1, high)
    text = f"I think of a number from 1 to {high}. Guess it; I say higher or lower."
    return text + f" (game {source.randint(0, 999)})", str(secret)
