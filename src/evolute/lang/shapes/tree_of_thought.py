"""Tree of thought: plans are forked, solutions of each are forked again, and the best is chosen.

Branches share all that stands above them; the parent's prompt is computed once for its children.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import GOODS, NAMES, passages

PLANS, SOLUTIONS = 3, 2
HEAD = (
    "Problems of trade are solved in three steps: a plan, the solution by that plan, and the worth "
    "of the solution.\n" + " ".join(passages(random.Random("trade"), 3)) + "\n\n"
)


@sgl.function
def tree_of_thought(s: Any, problem: str) -> None:
    s += HEAD + f"Problem: {problem}\n"
    plans = s.fork(PLANS)
    for i, plan in enumerate(plans):
        plan += f"Plan {i + 1}:" + sgl.gen("plan", max_tokens=32, stop="\n")
    leaves = []
    for plan in plans:
        solutions = plan.fork(SOLUTIONS)
        for i, leaf in enumerate(solutions):
            leaf += f"\nSolution {i + 1}:" + sgl.gen("solution", max_tokens=32, stop="\n")
            leaf += "\nWorth from 0 to 9: " + sgl.gen("worth", max_tokens=2, regex="[0-9]")
        leaves += list(solutions)
    best = max(leaves, key=lambda leaf: leaf["worth"])
    s += f"Plan:{best['plan']}\nSolution:{best['solution']}\nTherefore the answer is"
    s += sgl.gen("answer", max_tokens=16, stop="\n")


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        dice = random.Random(f"{seed}/{i}")
        one, two = dice.sample(NAMES, 2)
        cost, money = dice.randrange(2, 9), dice.randrange(50, 99)
        problem = (
            f"{one} has {money} coins, sells {dice.randrange(3, 20)} {dice.choice(GOODS)} to {two} "
            f"for {cost} coins each, and then buys as many {dice.choice(GOODS)} as can be had "
            f"for {cost + 1} coins each. How many are they, and how many coins are left?"
        )
        found.append({"problem": problem})
    return found


def main() -> None:
    for state in tree_of_thought.run_batch(inputs(4), temperature=0):
        print(state.text().removeprefix(HEAD), end="\n\n")


if __name__ == "__main__":
    main()
