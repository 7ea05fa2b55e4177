"""Answers from retrieved passages: several questions have the same passages (DSPy's pipeline).

A batch sends those with equal passages one after the other, in whatever order they were given.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import CITIES, NAMES, PLACES, passages

PER_CONTEXT, PASSAGES = 4, 4
HEAD = (
    "Answer from the passages alone, in a few words. If they do not tell, say so.\n\n"
    "Passages:\nThe mill of Gild burnt down in 1911.\n"
    "Question: What burnt down?\nAnswer: the mill\n\n"
)


@sgl.function
def rag(s: Any, context: list[str], question: str) -> None:
    s += HEAD + "Passages:\n" + "\n".join(context)
    s += f"\nQuestion: {question}\nAnswer:" + sgl.gen("answer", max_tokens=24, stop="\n")


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    found = []
    for i in range(count):
        dice = random.Random(f"{seed}/{i}")
        context = passages(random.Random(f"{seed}/context/{i // PER_CONTEXT}"), PASSAGES)
        where = f"at the {dice.choice(PLACES)} of {dice.choice(CITIES)}"
        found.append(
            {"context": context, "question": f"Whom did {dice.choice(NAMES)} meet {where}?"}
        )
    random.Random(seed).shuffle(found)
    return found


def main() -> None:
    asked = inputs(8)
    for given, state in zip(asked, rag.run_batch(asked, temperature=0)):
        print(given["question"], state["answer"])


if __name__ == "__main__":
    main()
