"""JSON: facts out of an account, in a form that a regular expression fixes.

What the form forces is computed together and not drawn token by token (jump-forward).
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import CITIES, TRADES, Person, account_of

WORD = "[A-Z][a-z]{1,11}"
FORM = (
    r"\{\n"
    rf'    "name": "{WORD}",\n'
    rf'    "city": "({"|".join(CITIES)})",\n'
    rf'    "trade": "({"|".join(TRADES)})",\n'
    r'    "year of birth": (18|19)[0-9]{2},\n'
    r'    "is still alive": (true|false)\n'
    r"\}"
)


def _example(seed: int) -> str:
    dice = random.Random(seed)
    person = Person.draw(dice)
    return (
        f"Account: {account_of(person, dice, 3)}\nFacts as JSON:\n"
        f'{{\n    "name": "{person.name}",\n    "city": "{person.city}",\n'
        f'    "trade": "{person.trade}",\n    "year of birth": {person.born},\n'
        '    "is still alive": true\n}\n\n'
    )


HEAD = "".join(map(_example, range(2)))


@sgl.function
def json_decode(s: Any, account: str) -> None:
    s += HEAD + f"Account: {account}\nFacts as JSON:\n"
    s += sgl.gen("facts", max_tokens=128, regex=FORM)


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice = [random.Random(f"{seed}/{i}") for i in range(count)]
    return [{"account": account_of(Person.draw(one), one, 4)} for one in dice]


def main() -> None:
    for state in json_decode.run_batch(inputs(4), temperature=0):
        print(state["facts"])


if __name__ == "__main__":
    main()
