"""Words that no language has, for names in made worlds.

made_word(source, 2, 4)      two to four syllables, capitalised; equal sources give equal words
"""

from __future__ import annotations

import random

SYLLABLES = (
    "ba",
    "ko",
    "ri",
    "ten",
    "lu",
    "mas",
    "do",
    "vel",
    "ni",
    "sa",
    "por",
    "ge",
    "mi",
    "tor",
)


def made_word(source: random.Random, least: int, most: int) -> str:
    return "".join(source.choices(SYLLABLES, k=source.randint(least, most))).capitalize()
