"""A long document with a few facts in much else, and a question that needs them.

    draw_document(source, parts, lines, hops, split, names) -> Document

The facts are links of a chain, in any order over the parts: who has a key, in which box it lies, in
which room the box stands. The other lines tell of other people, keys, boxes and rooms.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evolute.envs.base import split_of
from evolute.envs.madewords import NAMES, made_word

LINKS = (
    ("{x} owns the {y} key.", "the key that {x} owns"),
    ("The {x} key opens the {y} box.", "the box that {x} opens"),
    ("The {x} box stands in the {y} room.", "the room where {x} stands"),
    ("The {x} room belongs to the {y} house.", "the house that {x} belongs to"),
)
COLOURS = ("Red", "Green", "Blue", "White", "Black", "Brown", "Grey", "Pink")
FILLER = (
    "{x} went to the market and came back late.",
    "Nobody saw {x} on that day.",
    "It rained when {x} arrived.",
    "{x} wrote a long letter and burnt it.",
)


@dataclass(frozen=True, slots=True)
class Document:
    """`facts` are the lines that are needed, with the part that each stands in."""

    parts: tuple[str, ...]
    question: str
    answer: str
    facts: tuple[tuple[int, str], ...]


def draw_document(
    source: random.Random,
    parts: int,
    lines: int,
    hops: int,
    split: str,
    names: str = "long",
    *,
    decoys: bool = True,
    answers: str = "names",
) -> Document:
    """`parts` of `lines` lines each; `hops` 1 to 4 facts are needed. Without `decoys` all other
    lines are filler. `answers` are made-up names, or colours: words that every model knows."""
    taken: set[str] = set()

    def name() -> str:
        while True:
            word = made_word(source, *NAMES[names])
            if split_of(f"name {word}") == split and word not in taken:
                taken.add(word)
                return word

    def last() -> str:
        return source.choice(COLOURS) if answers == "colours" else name()

    def decoy() -> str:
        link = source.choice(LINKS[:hops])
        x = name()
        return link[0].format(x=x, y=last() if link is LINKS[hops - 1] else name())

    chain = [*(name() for _ in range(hops)), last()]
    facts = [LINKS[k][0].format(x=chain[k], y=chain[k + 1]) for k in range(hops)]
    slots = source.sample(range(parts * lines), hops)
    told = dict(zip(slots, facts))
    written = [
        told.get(slot)
        or (
            source.choice(FILLER).format(x=name())
            if source.random() < 0.5 or not decoys
            else decoy()
        )
        for slot in range(parts * lines)
    ]
    phrase = chain[0]
    for k in range(hops):
        phrase = LINKS[k][1].format(x=phrase)
    texts = [" ".join(written[k * lines : (k + 1) * lines]) for k in range(parts)]
    where = tuple(sorted((slot // lines, told[slot]) for slot in slots))
    return Document(tuple(texts), f"What is the name of {phrase}?", chain[-1], where)
