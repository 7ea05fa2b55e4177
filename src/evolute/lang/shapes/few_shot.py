"""Few-shot prompting: worked examples, then the question (MMLU and GSM-8K of SGLang's list).

All programs begin with the same examples, which a batch computes once.
"""

import random
from typing import Any

import evolute.lang as sgl
from evolute.lang.shapes.inputs import sum_of

SHOTS = "".join(
    f"Question: {text}\nAnswer: {result}\n\n"
    for text, result in (sum_of(random.Random(seed)) for seed in range(20))
)


@sgl.function
def few_shot(s: Any, question: str) -> None:
    s += SHOTS
    s += f"Question: {question}\nAnswer:" + sgl.gen("answer", max_tokens=4, stop="\n")


def inputs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"question": sum_of(random.Random(f"{seed}/{i}"))[0]} for i in range(count)]


def main() -> None:
    questions = inputs(8)
    for given, state in zip(questions, few_shot.run_batch(questions, temperature=0)):
        print(given["question"], state["answer"])


if __name__ == "__main__":
    main()
