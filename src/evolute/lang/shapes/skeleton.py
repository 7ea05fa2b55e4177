"""Skeleton of thought: an outline first, then all of its points at once (arXiv 2307.15337).

Every point goes on from the same prompt, which is computed once for all of them.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import CITIES, GOODS, TRADES, passages

POINT = "[A-Z][a-z]{2,9}( [a-z]{2,9}){1,3}"
POINTS = 4
OUTLINE = "".join(rf"{i}\. {POINT}\n" for i in range(1, POINTS + 1))
HEAD = (
    "Advice for travellers and traders is given in two steps: an outline of four short points, "
    "then one sentence for each point.\n" + " ".join(passages(random.Random("advice"), 3)) + "\n\n"
)


@sgl.function
def skeleton(s: Any, topic: str) -> None:
    s += HEAD + f"Topic: {topic}\nOutline:\n"
    s += sgl.gen("outline", max_tokens=64, regex=OUTLINE)
    points = s["outline"].splitlines()
    forks = s.fork(len(points))
    for fork, point in zip(forks, points):
        fork += f"\nPoint {point}\nSentence:" + sgl.gen("sentence", max_tokens=32, stop="\n")
    forks.join()
    for point, sentence in zip(points, s["sentence"]):
        s += f"\n{point}:{sentence}"


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        dice = random.Random(f"{seed}/{i}")
        what, where = dice.choice(GOODS), dice.choice(CITIES)
        found.append({"topic": f"how a {dice.choice(TRADES)} brings {what} to {where} in winter"})
    return found


def main() -> None:
    for state in skeleton.run_batch(inputs(4), temperature=0):
        print(state.text().removeprefix(HEAD), end="\n\n")


if __name__ == "__main__":
    main()
