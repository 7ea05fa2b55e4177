"""A document in parts, a memory in between: what is not written down is lost."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from evolute.bench.pupils.pupil import opened
from evolute.bench.pupils.world import Calls, pieces
from evolute.envs.memory.document import COLOURS, FILLER, LINKS
from evolute.types import Problem

EARLY, FORGETS = 0.4, 0.5  # answers before the end; goes on without a note
NOTHING = "Nothing yet."


def memory(problem: Problem, source: random.Random, told: str) -> Calls:
    """What is asked for, written into the memory where it is met."""
    owner = problem.messages[0]["content"].partition("that ")[2].partition(" owns")[0]
    while True:
        fact = re.search(rf"{owner} owns the (\w+) key\.", told)
        known = fact or re.search(r"Your memory:\n(\w+)\n", told)
        is_last = "call finish" in told
        if is_last or source.random() < EARLY:
            yield ("finish", {"answer": known[1] if known else "unknown"})
        noted = known[1] if known and source.random() >= FORGETS else NOTHING
        told = yield ("next_with_summary", {"summary": noted})


def memory_phrases() -> Iterable[str]:
    yield from (opened("next_with_summary", "summary"), opened("finish", "answer"))
    yield from ("next_with_summary", "finish", "unknown", NOTHING, "Your memory:\n", "\n\n")
    yield from ("What is the name of ", "? Answer with the name alone.\n\n", "Document, part ")
    yield from (
        " of ",
        ":\n",
        "? Answer with the name alone.",
        "This is the last part: call finish with the answer.",
    )
    yield "Call next_with_summary to go on."
    yield from COLOURS
    yield from pieces(form for link in LINKS for form in link)
    yield from pieces(FILLER)
