"""Chats of several turns, with short answers and with long ones.

Each turn's prompt is the whole chat so far: only the new question is computed.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import MOODS, PLACES, Person, account_of

TURNS, SHORT, LONG = 4, 8, 64


def _talk(s: Any, questions: list[str], length: int) -> None:
    for i, question in enumerate(questions):
        s += sgl.user(question)
        s += sgl.assistant(sgl.gen(f"answer_{i}", max_tokens=length, ignore_eos=True))


@sgl.function
def multi_turn_short(s: Any, questions: list[str]) -> None:
    _talk(s, questions, SHORT)


@sgl.function
def multi_turn_long(s: Any, questions: list[str]) -> None:
    _talk(s, questions, LONG)


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        dice = random.Random(f"{seed}/{i}")
        questions = []
        for _ in range(TURNS):
            person = Person.draw(dice)
            asked = f"Was {person.name} {dice.choice(MOODS)} at the {dice.choice(PLACES)}?"
            questions.append(f"{account_of(person, dice, 5)} {asked}")
        found.append({"questions": questions})
    return found


def main() -> None:
    for state in multi_turn_short.run_batch(inputs(4), temperature=0):
        for message in state.messages():
            print(f"{message['role']}: {message['content']}")


if __name__ == "__main__":
    main()
