"""Branch, solve, merge: an essay is judged in several respects at once, then in one word.

After SGLang's figure 2 (arXiv 2310.15123). The branches share the essay and the first look at it.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import Person, account_of

RESPECTS = ("clarity", "originality", "evidence", "grammar")
SYSTEM = "You judge short essays fairly, one respect at a time, and say briefly what you think."


@sgl.function
def branch_solve_merge(s: Any, essay: str) -> None:
    s += sgl.system(SYSTEM)
    s += sgl.user(f"Here is an essay:\n{essay}\nIs it about a person? Answer yes or no.")
    s += sgl.assistant(sgl.select("related", choices=["yes", "no"]))
    forks = s.fork(len(RESPECTS))
    for fork, respect in zip(forks, RESPECTS):
        fork += sgl.user(f"Judge its {respect} in one sentence.")
        fork += sgl.assistant(sgl.gen("judgement", max_tokens=32, stop="\n"))
    forks.join()
    told = "\n".join(f"{r}: {j}" for r, j in zip(RESPECTS, s["judgement"]))
    s += sgl.user(f"These are the judgements:\n{told}\nWhich grade does it get, A to D?")
    s += sgl.assistant(sgl.gen("grade", max_tokens=4, regex="[A-D][+-]?"))


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    dice = [random.Random(f"{seed}/{i}") for i in range(count)]
    return [{"essay": account_of(Person.draw(one), one, 12)} for one in dice]


def main() -> None:
    for state in branch_solve_merge.run_batch(inputs(4), temperature=0):
        print(state["related"], *state["judgement"], state["grade"], sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
