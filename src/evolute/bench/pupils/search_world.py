"""A corpus: the answer lies on the page of what is asked about."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from evolute.bench.pupils.pupil import opened
from evolute.bench.pupils.world import Calls, Talk, pieces
from evolute.envs.madewords import SYLLABLES
from evolute.envs.search import corpus
from evolute.envs.search.task import case_of
from evolute.types import Problem

GUESSES, STRAYS = 0.35, 0.25  # answers without a search; searches for something else
REPEATS = 0.5  # of the exercises: they teach to copy whatever name it is
MADE = re.compile(
    rf"\b(?:{'|'.join(one.capitalize() for one in SYLLABLES)})(?:{'|'.join(SYLLABLES)})\b"
)


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
    """A page of a problem's corpus, all names of it drawn anew, and what it tells; or names alone,
    to be said again."""
    if source.random() < REPEATS:
        names = "".join(source.sample(_short_names(), source.randint(4, 24)))
        return [(names, names)]
    case = case_of(task.name, problems[0], task.shape)
    page = source.choice(case.corpus.pages)
    kind = case.corpus.kinds[page.title]
    relations = [one for one in corpus.RELATIONS if one.kind == kind]
    source.shuffle(relations)
    talk = [
        (f"What is {one.phrase.format(x=page.title)}?", case.corpus.facts[page.title, one.name])
        for one in relations
    ]
    talk[0] = (f"1. {page.title}\n{page.text}\n{talk[0][0]}", talk[0][1])
    return _renamed(talk, source)


def _renamed(talk: Talk, source: random.Random) -> Talk:
    """Each made-up name is another one, everywhere the same."""
    names = sorted({name for said in talk for text in said for name in MADE.findall(text)})
    others = dict(zip(names, source.sample(_short_names(), len(names)), strict=True))
    question, answer = (
        [MADE.sub(lambda found: others[found[0]], text) for text in side]
        for side in zip(*talk, strict=True)
    )
    return list(zip(question, answer, strict=True))


def _short_names() -> list[str]:
    """All there are; each is a token."""
    return [f"{one.capitalize()}{other}" for one in SYLLABLES for other in SYLLABLES]


def search_phrases() -> Iterable[str]:
    yield from (opened("search", "query"), opened("finish", "answer"), "unknown", "search")
    yield from ("What is ", "?\nSearch: what is needed lies on one page. Hand in the answer with ")
    yield from ("`finish`: the name, number or word alone.", "1. ", " is a ", "Nothing found.")
    yield from (*corpus.FIRST, *corpus.PRODUCTS, *corpus.SEAS, *corpus.KINDS, " Works", "Tales of ")
    yield from (*_short_names(), *(f"{first} " for first in corpus.FIRST))
    yield from (" River", *(f"{relation.name} of" for relation in corpus.RELATIONS), "\n")
    yield from pieces(form for one in corpus.RELATIONS for form in (one.phrase, one.fact))
    yield from pieces(corpus.FILLER.values())
