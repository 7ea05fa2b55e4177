"""Chains of definitions out of order, with traps: long problems whose every step is easy.

    chain_task("chain-with-traps?steps=6-10&traps=2-4&modulus=100")
    read_chain(question) -> Chain          the definitions back from the text
    grade_chain(action, gold)              by the solution block, where there is one

A variable is given, or is another one plus, minus or times a number, all modulo `modulus`. The
definitions on the way to the asked one are scrambled among traps: variables that nobody needs.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from evolute.envs.arithmetic import grade_number
from evolute.envs.base import TextEnv, draw_problems
from evolute.types import ConfigError, Env, Problem
from evolute.types.settings import nearest

PREFIX = "chain-with-traps"
THOUGHT, SOLUTION = "<|begin_of_thought|>", "<|begin_of_solution|>"
OPERATIONS = "+-*"
_DEFINITION = re.compile(r"([a-z]) = (?:([a-z]) ([-+*]) )?(\d+)")
_QUESTION = re.compile(r"Work mod (\d+)\. (.+)\. What is ([a-z])\?")


@dataclass(frozen=True, slots=True)
class Definition:
    """`name = number`, or `name = source operation number`."""

    name: str
    source: str  # "" for a variable that is given
    operation: str
    number: int

    def __str__(self) -> str:
        middle = f"{self.source} {self.operation} " if self.source else ""
        return f"{self.name} = {middle}{self.number}"

    def value(self, of_source: int, modulus: int) -> int:
        if not self.source:
            return self.number % modulus
        return compute(of_source, self.operation, self.number, modulus)


@dataclass(frozen=True, slots=True)
class Chain:
    """Definitions as they are told, and what is asked. Invariant: each source is defined."""

    definitions: tuple[Definition, ...]
    asked: str
    modulus: int

    @property
    def path(self) -> tuple[Definition, ...]:
        """What the asked variable needs, the given one first."""
        by_name = {d.name: d for d in self.definitions}
        found = [by_name[self.asked]]
        while found[-1].source:
            found.append(by_name[found[-1].source])
        return tuple(reversed(found))

    @property
    def values(self) -> dict[str, int]:
        """Of the variables on the path, in its order."""
        found: dict[str, int] = {}
        for one in self.path:
            found[one.name] = one.value(found.get(one.source, 0), self.modulus)
        return found

    @property
    def question(self) -> str:
        told = "; ".join(map(str, self.definitions))
        return f"Work mod {self.modulus}. {told}. What is {self.asked}?"


@dataclass(frozen=True, slots=True)
class ChainTask:
    """`steps` definitions on the path, `traps` beside it; ranges, both ends included."""

    name: str = PREFIX
    steps: tuple[int, int] = (6, 10)
    traps: tuple[int, int] = (2, 4)
    modulus: int = 100

    @property
    def max_new_tokens(self) -> int:
        return 128 * self.steps[1]

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """`count` different problems of a split, the same for the same seed."""
        return draw_problems(self.name, self._draw, split, count, seed)

    def make(self, problem: Problem) -> Env:
        return TextEnv(lambda action: grade_chain(action, problem.gold))

    def _draw(self, source: random.Random) -> tuple[str, str]:
        chain = draw_chain(source, self.steps, self.traps, self.modulus)
        return chain.question, str(chain.values[chain.asked])


def chain_task(name: str) -> ChainTask:
    """A task by its name with options. Raises ConfigError for one that cannot be."""
    options: dict[str, str] = {}
    for part in filter(None, name.partition("?")[2].split("&")):
        key, _, value = part.partition("=")
        options[key] = value
    for key in options:
        if key not in ("steps", "traps", "modulus"):
            known = nearest(key, ("steps", "traps", "modulus"))
            raise ConfigError(f"{PREFIX} has no option {key!r}. {known}")
    steps, traps = _range(options, "steps", (6, 10), 1), _range(options, "traps", (2, 4), 0)
    modulus = _range(options, "modulus", (100, 100), 2)[0]
    if steps[1] + traps[1] > len(string.ascii_lowercase):
        raise ConfigError(f"{name!r} needs {steps[1] + traps[1]} variables, there are 26 letters.")
    return ChainTask(name, steps, traps, modulus)


def draw_chain(
    rng: random.Random, steps: tuple[int, int], traps: tuple[int, int], modulus: int
) -> Chain:
    """A chain at random; numbers lie below the modulus, factors between 2 and 9."""
    length, extra = rng.randint(*steps), rng.randint(*traps)
    names = rng.sample(string.ascii_lowercase, length + extra)
    path, others = names[:length], names[length:]
    made = [Definition(path[0], "", "", rng.randrange(modulus))]
    made += [_derived(rng, name, source, modulus) for source, name in pairwise(path)]
    known = list(path)
    for name in others:
        given = Definition(name, "", "", rng.randrange(modulus))
        made.append(
            given if rng.random() < 0.3 else _derived(rng, name, rng.choice(known), modulus)
        )
        known.append(name)
    rng.shuffle(made)
    return Chain(tuple(made), path[-1], modulus)


def read_chain(question: str) -> Chain:
    """The chain that a question tells of. Raises ValueError when it tells of none."""
    found = _QUESTION.search(question)
    parts = [_DEFINITION.fullmatch(part) for part in found[2].split("; ")] if found else [None]
    if not found or not all(parts):
        raise ValueError(f"{question!r} is no chain of definitions")
    definitions = [Definition(p[1], p[2] or "", p[3] or "", int(p[4])) for p in parts if p]
    return Chain(tuple(definitions), found[3], int(found[1]))


def compute(left: int, operation: str, right: int, modulus: int) -> int:
    """One step, modulo."""
    return {"+": left + right, "-": left - right, "*": left * right}[operation] % modulus


def grade_chain(action: str, gold: str) -> float:
    """1 if the last number of the solution block is the gold one; a thought without a solution is
    no answer, a text without tags is all of it."""
    if SOLUTION in action:
        return grade_number(action.rpartition(SOLUTION)[2], gold)
    return 0.0 if THOUGHT in action else grade_number(action, gold)


# -- internals ---------------------------------------------------------------


def _derived(rng: random.Random, name: str, source: str, modulus: int) -> Definition:
    operation = rng.choice(OPERATIONS)
    high = min(modulus, 10) - 1
    number = rng.randint(min(2, high), high) if operation == "*" else rng.randrange(1, modulus)
    return Definition(name, source, operation, number)


def _range(
    options: Mapping[str, str], key: str, default: tuple[int, int], least: int
) -> tuple[int, int]:
    ends: Sequence[str] = options[key].split("-") if key in options else tuple(map(str, default))
    if len(ends) not in (1, 2) or not all(end.isdigit() for end in ends):
        raise ConfigError(f"{PREFIX}: {key} is {options[key]!r}; write a number, or LOW-HIGH.")
    low, high = int(ends[0]), int(ends[-1])
    if not least <= low <= high:
        raise ConfigError(f"{PREFIX}: {key} is {options.get(key)}; at least {least}, low to high.")
    return low, high
