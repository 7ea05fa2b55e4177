"""What are the examples asked about? Made-up people, cities and accounts, from a seed.

Person.draw(dice)              who somebody is, in facts
account_of(person, dice)       the same in prose
sum_of(dice)                   an addition in words, with its result
passages(dice, count)          short texts on made-up cities
"""

from __future__ import annotations

import random
from dataclasses import dataclass

NAMES = ("Ada", "Bela", "Carl", "Dora", "Emil", "Flora", "Gero", "Hanna", "Ivo", "Jana")
CITIES = ("Arlen", "Borva", "Cadin", "Delm", "Estra", "Farow", "Gild", "Hosta", "Ilmen", "Jorra")
TRADES = ("baker", "carpenter", "doctor", "farmer", "judge", "mason", "painter", "teacher")
PLACES = ("market", "harbour", "library", "mill", "park", "school", "station", "theatre")
MOODS = ("calm", "curious", "glad", "proud", "tired", "worried")
GOODS = ("apples", "books", "candles", "eggs", "lamps", "maps", "nails", "ropes")


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    city: str
    trade: str
    born: int

    @classmethod
    def draw(cls, dice: random.Random) -> Person:
        born = dice.randrange(1890, 1990)
        return cls(dice.choice(NAMES), dice.choice(CITIES), dice.choice(TRADES), born)


def account_of(person: Person, dice: random.Random, sentences: int) -> str:
    """`sentences` sentences of some fifteen words."""
    found = [f"{person.name} was born in {person.born} and works as a {person.trade}."]
    while len(found) < sentences:
        place, other = dice.choice(PLACES), dice.choice(NAMES)
        found.append(
            f"In {dice.randrange(1900, 2020)} {person.name} met {other} at the {place} of "
            f"{dice.choice(CITIES)} and felt {dice.choice(MOODS)} for {dice.randrange(2, 30)} days."
        )
    return " ".join(found)


def sum_of(dice: random.Random) -> tuple[str, int]:
    one, two = dice.randrange(2, 50), dice.randrange(2, 50)
    goods, name, other = dice.choice(GOODS), dice.choice(NAMES), dice.choice(NAMES)
    text = f"{name} has {one} {goods} and buys {two} more from {other}. How many are there now?"
    return text, one + two


def passages(dice: random.Random, count: int) -> list[str]:
    found = []
    for _ in range(count):
        person = Person.draw(dice)
        head = f"The city of {person.city} has {dice.randrange(2, 90)} thousand inhabitants."
        found.append(f"{head} {account_of(person, dice, 4)}")
    return found
