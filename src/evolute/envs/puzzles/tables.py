"""Questions on a small table, some of whose rows come or go, as in BIG-bench's penguins.

table_questions("table-questions?rows=4&subject=penguins")     subject=cities is the shifted one
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import partial

from evolute.envs.puzzles.task import PuzzleTask, between, choice, read_options

NAMES = ("Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hal", "Ivo", "Jil", "Kim", "Lea")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a table tells of, and the bounds of its numbers."""

    one: str
    columns: dict[str, tuple[int, int]]


SUBJECTS = {
    "penguins": Subject("penguin", {"age": (1, 20), "height": (40, 90), "weight": (8, 25)}),
    "cities": Subject("city", {"area": (10, 900), "people": (2, 800), "bridges": (1, 60)}),
}
Row = tuple[str, tuple[int, ...]]


def table_questions(name: str) -> PuzzleTask:
    """`table-questions?rows=4&subject=penguins`."""
    options = read_options(name, {"rows": 4, "subject": "penguins"})
    rows = between("table-questions", options, "rows", 2, 10)
    subject = SUBJECTS[choice("table-questions", options, "subject", tuple(SUBJECTS))]
    return PuzzleTask(name, partial(_draw, rows, subject), _grade, max_new_tokens=12)


# -- internals ---------------------------------------------------------------


def _draw(count: int, subject: Subject, source: random.Random) -> tuple[str, str]:
    names = source.sample(NAMES, count + 1)
    rows = [(name, _numbers(subject, source)) for name in names]
    text = [", ".join(["name", *subject.columns]), *map(_line, rows[:count])]
    kept = rows[:count]
    event = source.choice(("none", "added", "removed"))
    note = ""
    if event == "added":
        note, kept = f"\nWe then add a {subject.one}:\n{_line(rows[count])}", rows
    elif event == "removed":
        gone = source.choice(kept)
        kept = [row for row in kept if row is not gone]
        note = f"\nWe then delete the {subject.one} named {gone[0]}."
    question, answer = _ask(kept, subject, source)
    table = "\n".join(text)
    return f"A table of {subject.one} data:\n{table}{note}\n{question} Answer briefly.", answer


def _numbers(subject: Subject, source: random.Random) -> tuple[int, ...]:
    return tuple(source.randint(low, high) for low, high in subject.columns.values())


def _line(row: Row) -> str:
    return ", ".join([row[0], *map(str, row[1])])


def _ask(rows: list[Row], subject: Subject, source: random.Random) -> tuple[str, str]:
    """One of four kinds of questions; a greatest or least row must be the only one."""
    columns = list(subject.columns)
    column = source.randrange(len(columns))
    title, values = columns[column], [numbers[column] for _, numbers in rows]
    kind = source.choice(("greatest", "least", "total", "above"))
    best = {"greatest": max, "least": min}.get(kind)
    if best is not None and values.count(best(values)) == 1:
        winner = rows[values.index(best(values))][0]
        return f"Which {subject.one} has the {kind} {title}?", winner
    if kind == "above":
        limit = source.choice(values)
        count = sum(value > limit for value in values)
        return f"How many have a {title} above {limit}?", str(count)
    return f"What is the total {title}?", str(sum(values))


def _grade(question: str, gold: str, answer: str) -> bool:
    words: list[str] = re.findall(r"-?\d+|[A-Za-z]+", answer)
    same_kind = [w for w in words if w.lstrip("-").isdigit() == gold.isdigit()]
    if not gold.isdigit():
        same_kind = [w for w in same_kind if w in NAMES]
    return bool(same_kind) and same_kind[-1] == gold
