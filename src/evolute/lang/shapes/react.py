"""ReAct: thoughts and actions in turn, with what a tool says between them (arXiv 2210.03629).

The prompt of each step is that of the step before and a little more: what the model wrote stays
the tokens that it wrote, so only the tool's answer is new.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import CITIES, NAMES, Person, account_of

STEPS = 4
ACTION = "(Search|Lookup)" + r"\[[A-Za-z]{2,12}\]"
RULES = (
    "Answer the question by thoughts, actions and observations in turn. Search[name] finds what is "
    "known of a person or of a city, Lookup[word] finds the next sentence with a word.\n\n"
)


def look_up(action: str) -> str:
    """The tool: what is known of whatever stands in the brackets."""
    word = action.partition("[")[2].rstrip("]")
    dice = random.Random(word)
    return account_of(Person.draw(dice), dice, 2)


def _example(seed: int) -> str:
    dice = random.Random(seed)
    lines = [f"Question: What do {dice.choice(NAMES)} and {dice.choice(NAMES)} have in common?"]
    for step in range(1, 4):
        name = dice.choice((*NAMES, *CITIES))
        lines += [f"Thought {step}: I have to find out about {name}.", f"Action {step}: Search"]
        lines[-1] += f"[{name}]"
        lines += [f"Observation {step}: {look_up(lines[-1])}"]
    return "\n".join([*lines, "Answer: They met at the market."]) + "\n\n"


HEAD = RULES + "".join(map(_example, range(2)))


@sgl.function
def react(s: Any, question: str) -> None:
    s += HEAD + f"Question: {question}\n"
    for step in range(1, STEPS + 1):
        s += f"Thought {step}:" + sgl.gen(f"thought_{step}", max_tokens=24, stop="\n")
        s += f"\nAction {step}: " + sgl.gen(f"action_{step}", max_tokens=16, regex=ACTION)
        s += f"\nObservation {step}: {look_up(s[f'action_{step}'])}\n"
    s += "Answer:" + sgl.gen("answer", max_tokens=16, stop="\n")


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        one, two = random.Random(f"{seed}/{i}").sample(NAMES, 2)
        found.append({"question": f"Where did {one} meet {two}, and in which of the years? ({i})"})
    return found


def main() -> None:
    for state in react.run_batch(inputs(4), temperature=0):
        print(state.text().removeprefix(HEAD), end="\n\n")


if __name__ == "__main__":
    main()
