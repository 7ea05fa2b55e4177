"""SQL: which of four spellings has this database?"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evolute.bench.pupils.pupil import opened, written
from evolute.bench.pupils.world import LAST, Calls, Talk
from evolute.envs.madewords import made_word
from evolute.envs.sql.domains import DOMAINS, SPELLINGS
from evolute.envs.sql.task import SPELT
from evolute.types import Problem

HASTY, CARELESS = 0.4, 0.3  # hands in at once; tries one query and hands it in whatever it gave
HEEDLESS = 0.8  # spends its last turn on a try all the same


def sql(problem: Problem, source: random.Random, told: str) -> Calls:
    """Queries in each spelling, from any on, until one finds something."""
    queries = spelt_queries(problem)
    first, how = source.randrange(len(queries)), source.random()
    queries = queries[first:] + queries[:first]
    is_hasty, is_careless = how < HASTY, how < HASTY + CARELESS
    query = queries[0]
    for query in queries[: 0 if is_hasty else 1 if is_careless else len(queries)]:
        if LAST in told and source.random() >= HEEDLESS:
            break
        told = yield ("sql", {"query": query})
        if found_rows(told):
            break
    yield ("finish", {"answer": query})


def spelt_queries(problem: Problem) -> list[str]:
    """The right query and the three that only spell its word otherwise."""
    stored = re.search(r"'([^']+)'", problem.gold)
    assert stored is not None, f"{problem.id} asks for no word"
    return [problem.gold.replace(stored[0], f"'{spell(_word(problem))}'") for spell in SPELLINGS]


def _word(problem: Problem) -> str:
    word = re.search(r"(\w+)\?", problem.id)
    assert word is not None, f"{problem.id} asks for no word"
    return word[1]


def _columns() -> list[tuple[str, ...]]:
    """The words of each column there is."""
    tables = (t for domain in DOMAINS.values() for t in (domain.parent, domain.child))
    return [words for table in tables for words in table.kinds.values()]


def ask_for_any_word(task: Any, problems: Sequence[Problem], source: random.Random) -> Talk:
    """A question whose word is one of another column, and its query: what can only be copied. No
    real question is among them. Half are handed in at once, half when they have found something."""
    problem = problems[0]
    word, columns = _word(problem), [kind for kind in _columns() if _word(problem) not in kind]
    other = source.choice(source.choice(columns))
    question = problem.messages[0]["content"].replace(f" {word}?", f" {other}?")
    query = source.choice(spelt_queries(problem)).replace(word, other)
    handed_in = written("finish", {"answer": query})
    if source.random() < 0.5:
        return [(question, handed_in)]
    head = query.removeprefix("SELECT ").partition(" FROM")[0]
    rows = [
        made_word(source, 2, 3) if head == "name" else str(source.randint(1, 99))
        for _ in range(source.randint(1, 4) if head == "name" else 1)
    ]
    told = "\n".join([head, *rows, f"[{len(rows)} rows]", "[5 queries are left]"])
    return [(question, written("sql", {"query": query})), (told, handed_in)]


def found_rows(told: str) -> bool:
    """Did the tool show something that is neither nothing nor zero?"""
    lines = told.split("\n")
    return len(lines) > 2 and lines[1] not in ("0", "NULL") and "[0 rows]" not in told


def sql_phrases() -> Iterable[str]:
    yield from (opened("sql", "query"), opened("finish", "answer"), "sql", "finish", "name", "id")
    yield SPELT + "\n"
    yield from ("Answer a question to a SQLite database by one SQL query.\n", "Question: ")
    yield from ("How many ", " have the ", "What are the names of all ", " with the ", "?\n")
    yield from ("What is the ", "average", "total", "greatest", "least", " of the ")
    yield "Give the columns in the order in which the question names them, and no others.\n"
    yield from ("You may try ", " queries with `sql`.\n", "Hand in the query with `finish`.")
    yield from ("SELECT ", "count(*)", "avg(", "sum(", "max(", "min(", " FROM ", " WHERE ", " = '")
    yield from ("NULL", " rows]\n[", " queries are left]", "1 query is left]")
    for domain in DOMAINS.values():
        for table in (domain.parent, domain.child):
            yield from (table.name, *table.numbers, *table.kinds)
            for words in table.kinds.values():
                yield from words
