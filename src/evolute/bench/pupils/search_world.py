"""A corpus: the answer lies on the page of what is asked about."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evolute.bench.pupils.pupil import opened
from evolute.bench.pupils.world import Calls, Talk, pieces
from evolute.envs.madewords import made_word
from evolute.envs.search import corpus
from evolute.envs.search.task import case_of
from evolute.types import Problem

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


REPEATS = 0.4  # of the exercises: nothing but to say again what was said


def read_page(task: Any, problems: Sequence[Problem], source: random.Random) -> Talk:
    """A page of a problem's corpus, and what it tells; or made-up words to be repeated, which is
    what reading a name comes down to."""
    if source.random() < REPEATS:
        words = " ".join(made_word(source, 1, 3) for _ in range(source.randint(3, 8)))
        return [(words, words)]
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


def search_phrases() -> Iterable[str]:
    yield from (opened("search", "query"), opened("finish", "answer"), "unknown", "search")
    yield from ("What is ", "?\nSearch: what is needed lies on one page. Hand in the answer with ")
    yield from ("`finish`: the name, number or word alone.", "1. ", " is a ", "Nothing found.")
    yield from (*corpus.FIRST, *corpus.PRODUCTS, *corpus.SEAS, *corpus.KINDS, " Works", "Tales of ")
    yield from (" River", *(f"{relation.name} of" for relation in corpus.RELATIONS), "\n")
    yield from pieces(form for one in corpus.RELATIONS for form in (one.phrase, one.fact))
    yield from pieces(corpus.FILLER.values())
