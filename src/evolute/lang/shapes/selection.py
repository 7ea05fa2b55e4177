"""Selection: which of four endings is the most probable (HellaSwag of SGLang's list).

Prefixes are shared on two levels: the examples by all programs, each story by its endings.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import MOODS, PLACES, Person, account_of


def _story(seed: str) -> tuple[str, list[str]]:
    dice = random.Random(seed)
    person = Person.draw(dice)
    text = account_of(person, dice, 2)
    ways = dice.sample(PLACES, 4)
    return text, [f" {person.name} felt {dice.choice(MOODS)} at the {place}." for place in ways]


def _example(index: int) -> str:
    text, endings = _story(f"example/{index}")
    return f"Story: {text}\nEnding:{endings[index % 4]}\n\n"


SHOTS = "".join(map(_example, range(10)))


@sgl.function
def selection(s: Any, story: str, endings: list[str]) -> None:
    s += SHOTS
    s += f"Story: {story}\nEnding:" + sgl.select("ending", choices=endings)


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    stories = [_story(f"{seed}/{i}") for i in range(count)]
    return [{"story": text, "endings": endings} for text, endings in stories]


def main() -> None:
    stories = inputs(8)
    for given, state in zip(stories, selection.run_batch(stories)):
        print(given["story"], state["ending"])


if __name__ == "__main__":
    main()
