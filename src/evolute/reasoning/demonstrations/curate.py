"""Which right traces are new, and none of what will be asked in an evaluation?

    dedupe(traces) -> list               one of those with the same problem and answer
    at_most(traces, per_problem) -> list the first ones of each problem
    decontaminate(traces, texts) -> Clean   without problems that an evaluation holds

Two texts overlap when they are equal as words, or share a run of 13 words (Brown et al. 2020,
appendix C). A run that stands in many of the training prompts is a form, not a problem: it counts
for nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evolute.reasoning.demonstrations.trace import Trace, render

GRAM = 13
FORM = 0.2  # share of the prompts from which on a run of words is their form
LEAST = 5  # prompts, below which nothing is a form
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Clean:
    """Traces to keep, and those that overlap with what is evaluated."""

    kept: list[Trace]
    overlapping: list[Trace]


def dedupe(traces: Sequence[Trace]) -> list[Trace]:
    """The first of each, white space and case aside."""
    found: dict[tuple[str, str], Trace] = {}
    for trace in traces:
        found.setdefault((_flat(question_of(trace)), _flat(render(trace))), trace)
    return list(found.values())


def at_most(traces: Sequence[Trace], per_problem: int) -> list[Trace]:
    """Balance: no problem has more than its share."""
    seen: Counter[str] = Counter()
    kept = []
    for trace in traces:
        seen[trace.problem_id] += 1
        if seen[trace.problem_id] <= per_problem:
            kept.append(trace)
    return kept


def decontaminate(traces: Sequence[Trace], texts: Iterable[str], n: int = GRAM) -> Clean:
    """`texts` are the questions of the evaluation."""
    questions = [words(question_of(trace)) for trace in traces]
    forms = _forms({tuple(q) for q in questions}, n)
    held, grams = set(), set()
    for text in texts:
        asked = words(text)
        held.add(tuple(asked))
        grams |= _grams(asked, n) - forms
    kept: list[Trace] = []
    overlapping: list[Trace] = []
    for trace, asked in zip(traces, questions):
        is_held = tuple(asked) in held or bool((_grams(asked, n) - forms) & grams)
        (overlapping if is_held else kept).append(trace)
    return Clean(kept, overlapping)


def question_of(trace: Trace) -> str:
    """What the user asked, without the system's words."""
    return "\n".join(m["content"] for m in trace.prompt if m["role"] != "system")


def words(text: str) -> list[str]:
    """Words, numbers and single signs, in small letters."""
    return _WORD.findall(text.lower())


# -- internals ---------------------------------------------------------------


def _forms(questions: set[tuple[str, ...]], n: int) -> set[tuple[str, ...]]:
    counts = Counter(gram for question in questions for gram in _grams(question, n))
    least = max(LEAST, FORM * len(questions))
    return {gram for gram, count in counts.items() if count >= least}


def _grams(asked: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(asked[i : i + n]) for i in range(len(asked) - n + 1)}


def _flat(text: str) -> str:
    return " ".join(text.lower().split())
