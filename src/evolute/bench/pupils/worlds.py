"""Worlds that a pupil is taught to act in, badly: what its teacher does, what its vocabulary is.

WORLDS[name] -> World(script, phrases, turns, exercises)

A script knows the right way and takes it now and then. What it does wrong else is what agents do
wrong: it answers before it looked, it looks and does not mind what it saw, it forgets. No script
makes a call that its tool refuses, so what is left to learn is when to do what. Where a pupil has
to find a fact in a text, it is taught to read by exercises: a text and questions to all its facts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.bench.pupils.pupil import opened
from evolute.bench.pupils.teacher import Call, Script
from evolute.envs.memory.document import COLOURS, FILLER, LINKS
from evolute.envs.search import corpus
from evolute.envs.search.task import case_of
from evolute.envs.sql.domains import DOMAINS, SPELLINGS
from evolute.envs.sql.task import SPELT
from evolute.types import Problem

Calls = Generator[Call, str, None]
Talk = list[tuple[str, str]]  # questions and answers; the first question has the text
Exercise = Callable[[Any, Sequence[Problem], random.Random], Talk]
TOLD_OF = 3  # problems an exercise may use
LAST = "last turn"  # in what an agent is told before it


@dataclass(frozen=True, slots=True)
class World:
    """`turns` are the agent's in the lessons, one after the other; an exercise is questions and
    answers about a few problems of the task."""

    script: Script
    phrases: tuple[str, ...]
    turns: tuple[int, ...]
    exercise: Exercise | None = None


# -- SQL: which of four spellings has this database? ---------------------------------------------

HASTY, CARELESS = 0.45, 0.4  # hands in at once; tries one query and hands it in whatever it gave
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
    word = re.search(r"(\w+)\?", problem.id)
    stored = re.search(r"'([^']+)'", problem.gold)
    assert word is not None and stored is not None, f"{problem.id} asks for no word"
    return [problem.gold.replace(stored[0], f"'{spell(word[1])}'") for spell in SPELLINGS]


def found_rows(told: str) -> bool:
    """Did the tool show something that is neither nothing nor zero?"""
    lines = told.split("\n")
    return len(lines) > 2 and lines[1] not in ("0", "NULL") and "[0 rows]" not in told


def _sql_phrases() -> Iterable[str]:
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


# -- a document in parts: what is not written down is lost ---------------------------------------

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


def _memory_phrases() -> Iterable[str]:
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
    yield from _pieces(form for link in LINKS for form in link)
    yield from _pieces(FILLER)


# -- a corpus: the answer lies on the page of what is asked about --------------------------------

GUESSES, STRAYS = 0.4, 0.35  # answers without a search; searches for something else


def search(problem: Problem, source: random.Random, told: str) -> Calls:
    """One search for the name in the question, and the value of the fact it asks for."""
    relation, title = asked(problem)
    how = source.random()
    if how >= GUESSES:
        query = title if how >= GUESSES + STRAYS else f"{relation.name} of"
        told = yield ("search", {"query": query})
    fact = re.escape(relation.fact.format(x="X", y="Y")).replace("X", ".+?").replace("Y", "(.+?)")
    seen = re.search(f"{fact}(?: |$)", told.partition("\n")[2])
    yield ("finish", {"answer": seen[1] if seen and how >= GUESSES else "unknown"})


def asked(problem: Problem) -> tuple[corpus.Relation, str]:
    """The relation and the title of a question of one hop."""
    question = problem.messages[0]["content"].partition("\n")[0]
    for relation in corpus.RELATIONS:
        before, after = relation.phrase.split("{x}")
        form = f"What is {re.escape(before)}(.+){re.escape(after)}\\?"
        if match := re.fullmatch(form, question):
            return relation, match[1]
    raise AssertionError(f"{question!r} is no question of one hop")


def read_page(task: Any, problems: Sequence[Problem], source: random.Random) -> Talk:
    """A page of a problem's corpus, and what it tells."""
    case = case_of(task.name, problems[0], task.shape)
    page = source.choice(case.corpus.pages)
    kind = case.corpus.kinds[page.title]
    relations = [one for one in corpus.RELATIONS if one.kind == kind]
    source.shuffle(relations)
    talk = [
        (f"What is {one.phrase.format(x=page.title)}?", case.corpus.facts[page.title, one.name])
        for one in relations
    ]
    return [(f"1. {page.title}\n{page.text}\n{talk[0][0]}", talk[0][1]), *talk[1:]]


def _search_phrases() -> Iterable[str]:
    yield from (opened("search", "query"), opened("finish", "answer"), "unknown", "search")
    yield from ("What is ", "?\nSearch: what is needed lies on one page. Hand in the answer with ")
    yield from ("`finish`: the name, number or word alone.", "1. ", " is a ", "Nothing found.")
    yield from (*corpus.FIRST, *corpus.PRODUCTS, *corpus.SEAS, *corpus.KINDS, " Works", "Tales of ")
    yield from (" River", *(f"{relation.name} of" for relation in corpus.RELATIONS), "\n")
    yield from _pieces(form for one in corpus.RELATIONS for form in (one.phrase, one.fact))
    yield from _pieces(corpus.FILLER.values())


def _pieces(forms: Iterable[str]) -> Iterable[str]:
    """What stands between the blanks of sentences."""
    for form in forms:
        yield from (piece for piece in re.split(r"\{\w\}", form) if len(piece) > 2)


def _world(
    script: Script,
    phrases: Iterable[str],
    turns: Sequence[int],
    exercise: Exercise | None = None,
) -> World:
    return World(script, tuple(dict.fromkeys(phrases)), tuple(turns), exercise)


WORLDS = {
    "sql": _world(sql, _sql_phrases(), (1, 3, 5, 5)),
    "memory": _world(memory, _memory_phrases(), (4,)),
    "search": _world(search, _search_phrases(), (4,), read_page),
}
