"""A small world of people, companies, cities, books and rivers, told on pages that link.

    draw_corpus(source, docs, split, names) -> Corpus        facts and their pages
    draw_question(source, corpus, hops)               a chain of facts, each on another page

Every name belongs to one split by its hash, so no fact of one is known from the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from evolute.envs.base import split_of
from evolute.envs.madewords import NAMES, made_word

FIRST = ("Ada", "Bo", "Cleo", "Dan", "Eva", "Finn", "Gus", "Ines", "Jon", "Kim", "Lea", "Milo")
PRODUCTS = ("bicycles", "clocks", "kettles", "lamps", "looms", "pianos", "pumps", "radios", "ropes",
            "saddles", "sails", "tents", "tiles", "violins", "wagons")  # fmt: skip
SEAS = ("Amber Sea", "Cold Sea", "Grey Sea", "Long Sea", "Quiet Sea", "Salt Sea")
KINDS = ("person", "company", "city", "book", "river")
SHARES = (5, 3, 3, 3, 2)  # of pages, by kind
FILLER = {
    "person": "In youth {x} liked to travel and kept a diary.",
    "company": "Visitors to {x} are shown the old workshop.",
    "city": "The market of {x} is held every other week.",
    "book": "Readers of {x} have praised its slow beginning.",
    "river": "Boats on {x} are few in winter.",
}


@dataclass(frozen=True, slots=True)
class Relation:
    """`phrase` names the object by its subject, `fact` tells it; `target` "" is a plain value."""

    kind: str
    name: str
    target: str
    phrase: str
    fact: str


RELATIONS = (
    Relation("person", "birthplace", "city", "the city where {x} was born", "{x} was born in {y}."),
    Relation(
        "person", "employer", "company", "the company that {x} works for", "{x} works for {y}."
    ),
    Relation("person", "born", "", "the year in which {x} was born", "The year of birth is {y}."),
    Relation("company", "seat", "city", "the city where {x} is based", "{x} is based in {y}."),
    Relation(
        "company", "founder", "person", "the person who founded {x}", "{x} was founded by {y}."
    ),
    Relation("company", "product", "", "the product that {x} makes", "{x} makes {y}."),
    Relation("city", "river", "river", "the river that {x} lies on", "{x} lies on the river {y}."),
    Relation("city", "mayor", "person", "the mayor of {x}", "The mayor of {x} is {y}."),
    Relation(
        "city", "people", "", "the number of people who live in {x}", "{y} people live in {x}."
    ),
    Relation("book", "author", "person", "the author of {x}", "{x} was written by {y}."),
    Relation("book", "year", "", "the year in which {x} appeared", "{x} appeared in {y}."),
    Relation("river", "sea", "", "the sea that {x} flows into", "{x} flows into the {y}."),
    Relation("river", "length", "", "the length in km of {x}", "{x} is {y} km long."),
)


@dataclass(frozen=True, slots=True)
class Page:
    """`links` are titles of other pages that the text names."""

    title: str
    text: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Corpus:
    """Invariant: every object of a relation with a target has a page."""

    pages: tuple[Page, ...]
    kinds: dict[str, str]  # of titles
    facts: dict[tuple[str, str], str]  # title and relation -> object


@dataclass(frozen=True, slots=True)
class Question:
    """`path` are the titles whose pages hold the facts, in the order they are needed."""

    text: str
    answer: str
    path: tuple[str, ...]


def draw_corpus(source: random.Random, docs: int, split: str, names: str = "long") -> Corpus:
    titles_of = _titles(source, split, names)
    kinds = {next(titles_of[kind]): kind for kind in _kinds(docs)}
    by_kind = {kind: [title for title, k in kinds.items() if k == kind] for kind in KINDS}
    facts: dict[tuple[str, str], str] = {}
    for title, kind in kinds.items():
        for relation in _of(kind):
            facts[title, relation.name] = (
                source.choice([t for t in by_kind[relation.target] if t != title])
                if relation.target
                else _value(source, relation.name)
            )
    titles = list(kinds)
    source.shuffle(titles)
    return Corpus(tuple(_page(t, kinds[t], facts, source) for t in titles), kinds, facts)


def draw_question(source: random.Random, corpus: Corpus, hops: int) -> Question:
    """`hops` facts, each about what the one before names; no page is needed twice."""
    while True:
        title = source.choice(sorted(corpus.kinds))
        phrase, path = title, [title]
        for hop in range(hops):
            choices = [r for r in _of(corpus.kinds[path[-1]]) if r.target or hop == hops - 1]
            if not choices:
                break
            relation = source.choice(choices)
            phrase = relation.phrase.format(x=phrase)
            found = corpus.facts[path[-1], relation.name]
            if hop == hops - 1:
                return Question(f"What is {phrase}?", found, tuple(path))
            if found in path:
                break
            path.append(found)


# -- internals ---------------------------------------------------------------


def _of(kind: str) -> list[Relation]:
    return [relation for relation in RELATIONS if relation.kind == kind]


def _kinds(docs: int) -> list[str]:
    """At least two of each kind, then by their shares."""
    total = sum(SHARES)
    counts = [max(2, docs * share // total) for share in SHARES]
    return [kind for kind, count in zip(KINDS, counts) for _ in range(count)]


def _titles(source: random.Random, split: str, names: str) -> dict[str, Iterator[str]]:
    """Different names, all of the split."""

    def drawn(form: str) -> Iterator[str]:
        seen: set[str] = set()
        while True:
            word = made_word(source, *NAMES[names])
            name = form.format(word=word, first=source.choice(FIRST))
            if split_of(f"name {word}") == split and word not in taken:
                taken.add(word)
                seen.add(name)
                yield name

    taken: set[str] = set()
    forms = {
        "person": "{first} {word}",
        "company": "{word} Works",
        "city": "{word}",
        "book": "Tales of {word}",
        "river": "{word} River",
    }
    return {kind: drawn(form) for kind, form in forms.items()}


def _value(source: random.Random, name: str) -> str:
    if name == "product":
        return source.choice(PRODUCTS)
    if name == "sea":
        return source.choice(SEAS)
    low, high = {"born": (1900, 1999), "people": (1000, 99999), "year": (1950, 2020)}.get(
        name, (50, 2000)
    )
    return str(source.randint(low, high))


def _page(title: str, kind: str, facts: dict[tuple[str, str], str], source: random.Random) -> Page:
    relations = _of(kind)
    lines = [r.fact.format(x=title, y=facts[title, r.name]) for r in relations]
    lines.append(FILLER[kind].format(x=title))
    source.shuffle(lines)
    links = tuple(dict.fromkeys(facts[title, r.name] for r in relations if r.target))
    return Page(title, f"{title} is a {kind}. " + " ".join(lines), links)
