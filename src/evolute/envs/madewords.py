"""Words that no language has, for names in made worlds.

made_word(source, 2, 4)      two to four syllables, capitalised; equal sources give equal words
NAMES[how] -> (least, most)   syllables of a name, by the option `names` of the families
"""

from __future__ import annotations

import random

NAMES = {"long": (2, 4), "short": (2, 2)}
MAX_SHORT = 30  # different short names that one world may need: of one split there are about 39
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
