"""Generative agents: many people of one town, each asked the same kinds of things at every hour.

Each kind of call has a template that all agents share (arXiv 2304.03442; SGLang's trace of it).
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import MOODS, PLACES, Person, account_of, passages

TOWN = "The town and its surroundings. " + " ".join(passages(random.Random("town"), 4)) + "\n\n"
KINDS = {
    "plan": "Write what the person will do within the next hour, in one sentence, and why.",
    "poignancy": "Say how moving the event is for the person, from 1 (daily routine) to 10.",
    "where": "Say at which place of the town the person will do it, and with whom, in few words.",
}


@sgl.function
def agents(s: Any, kind: str, about: str, event: str) -> None:
    s += TOWN + f"Task: {KINDS[kind]}\n"
    s += f"Person: {about}\nEvent: {event}\nAnswer:"
    if kind == "poignancy":
        s += " " + sgl.gen("answer", max_tokens=4, regex="([1-9]|10)")
    else:
        s += sgl.gen("answer", max_tokens=24, stop="\n")


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        dice = random.Random(f"{seed}/{i}")
        person = Person.draw(dice)
        event = f"{person.name} is at the {dice.choice(PLACES)} and feels {dice.choice(MOODS)}."
        kind = list(KINDS)[i % len(KINDS)]
        found.append({"kind": kind, "about": account_of(person, dice, 3), "event": event})
    return found


def main() -> None:
    calls = inputs(9)
    for given, state in zip(calls, agents.run_batch(calls, temperature=0)):
        print(f"{given['kind']}: {given['event']}{state['answer']}")


if __name__ == "__main__":
    main()
