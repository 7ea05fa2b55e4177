"""Answer a question about a document that is read in parts, with a memory that one writes oneself.

    memory_task("memory-qa?parts=4&lines=12&hops=2&names=long&decoys=yes&answers=names")

Each call of `next_with_summary` clears the talk, so a rollout has as many training samples as parts
were read. The answer counts by exact match. Names are `long`, or `short`: two syllables, for models
that read syllables. Without `decoys` no line tells a fact of the kind that is asked for but those
that are needed. `answers` may be `colours`, of which there are eight.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evolute.envs.base import split_of
from evolute.envs.madewords import MAX_SHORT, NAMES
from evolute.envs.memory.document import Document, draw_document
from evolute.envs.puzzles.task import Options, between, choice, read_options
from evolute.envs.search.answers import is_same_answer
from evolute.envs.tools.contract import Grade, Tool
from evolute.envs.tools.finish import Finish
from evolute.envs.tools.memory import NextWithSummary
from evolute.envs.tools.worlds import Call, Lifetime
from evolute.types import ConfigError, Message, Problem

FAMILY = "memory-qa"
DEFAULTS: Options = {
    "parts": 4,
    "lines": 12,
    "hops": 2,
    "names": "long",
    "decoys": "yes",
    "answers": "names",
}


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A problem is its seed. No name of a document of one split is in the other's."""

    name: str
    parts: int
    lines: int
    hops: int
    names: str
    decoys: bool
    answers: str

    def problems(self, split: str, count: int, seed: int = 0) -> list[Problem]:
        """As many as are asked for, the same for the same seed."""
        source = random.Random(f"{self.name}/{split}/{seed}")
        found: dict[str, Problem] = {}
        while len(found) < count:
            key = f"{split}/{source.getrandbits(48):012x}"
            document = self._document(key)
            text = f"{key}: {document.question}"
            first = NextWithSummary(self._ask(document), document.parts).message("")
            found[text] = Problem(text, (first,), document.answer, {"memory": key})
        return list(found.values())

    def world(self, problem: Problem) -> MemoryWorld:
        """Raises ConfigError for a problem of another family or of other options."""
        document = self._of(problem)
        return MemoryWorld(problem, document, self._ask(document))

    def gold_calls(self, problem: Problem) -> Sequence[Call]:
        document = self._of(problem)
        calls: list[Call] = []
        for part in range(self.parts - 1):
            known = [fact for place, fact in document.facts if place <= part]
            calls.append(("next_with_summary", {"summary": " ".join(known) or "Nothing yet."}))
        return [*calls, ("finish", {"answer": document.answer})]

    # -- internals ---------------------------------------------------------------

    def _of(self, problem: Problem) -> Document:
        key = problem.extras.get("memory")
        if isinstance(key, str):
            document = self._document(key)
            if problem.id == f"{key}: {document.question}":
                return document
        raise ConfigError(f"problem {problem.id[:80]!r} is none of {self.name!r}.")

    def _document(self, key: str) -> Document:
        source, split = random.Random(key), key.partition("/")[0]
        while True:
            document = self._drawn(source, split)
            if split_of(document.question) == split:
                return document

    def _drawn(self, source: random.Random, split: str) -> Document:
        shape = (self.parts, self.lines, self.hops)
        return draw_document(
            source, *shape, split, self.names, decoys=self.decoys, answers=self.answers
        )

    def _ask(self, document: Document) -> str:
        return f"{document.question} Answer with the name alone."


class MemoryWorld(Lifetime):
    """The document and how far it is read."""

    def __init__(self, problem: Problem, document: Document, question: str) -> None:
        super().__init__()
        self._problem, self._document = problem, document
        self._next = NextWithSummary(question, document.parts)

    def instruction(self) -> Sequence[Message]:
        return self._problem.messages

    def tools(self) -> Sequence[Tool]:
        return (self._next, Finish())

    async def grade(self, answer: str | None) -> Grade:
        is_right = is_same_answer(answer, self._document.answer)
        read = min(1.0, (self._next.part + 1) / len(self._document.parts))
        return Grade(float(is_right), is_right, {"read": read})


def memory_task(name: str) -> MemoryTask:
    """A task by its name with options. Raises ConfigError for options that cannot be."""
    options = read_options(name, DEFAULTS)
    parts = between(FAMILY, options, "parts", 1, 100)
    lines = between(FAMILY, options, "lines", 4, 200)
    hops, names = between(FAMILY, options, "hops", 1, 4), choice(FAMILY, options, "names", NAMES)
    needed = 2 * parts * lines + 1
    if names == "short" and needed > MAX_SHORT:
        raise ConfigError(
            f"task {name!r} may need {needed} short names; there are {MAX_SHORT}. Take fewer parts "
            "or lines, or names=long."
        )
    decoys = choice(FAMILY, options, "decoys", ("yes", "no")) == "yes"
    answers = choice(FAMILY, options, "answers", ("names", "colours"))
    return MemoryTask(name, parts, lines, hops, names, decoys, answers)
