"""Programs whose calls have prefixes in common: SGLang's benchmarks (arXiv 2312.07104, section 6).

mmlu             5-shot questions of 4 subjects, 1 new token
hellaswag        20 examples, then a question with 4 endings: sharing on two levels
react            agents: template, then a history that grows by steps
tree_of_thought  3 thoughts on each of 3 thoughts, then an answer: forks of forks
skeleton         an outline, then its points at the same time
judge            an essay judged in 5 respects at the same time, then merged
json             answers that a schema binds
rag              questions over contexts that several of them share
multiturn_short  4 turns of 256-512 tokens, 4-8 new
multiturn_long   4 turns of 256-512 tokens, 256-512 new

Turns, shots, forks and the lengths of multiturn are the paper's; the other lengths, which it does
not give, are ours. Replies that later calls quote are random, so every server gets the same calls;
a server that would find its own replies in its cache gains less here than in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from evolute.bench.shapes.item import Dice, WorkItem

PROFILE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "house": {"enum": ["north", "east", "south", "west"]},
        "alive": {"type": "boolean"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "house", "alive", "age"],
    "additionalProperties": False,
}


@dataclass(slots=True)
class Program:
    """Calls that depend on one another."""

    id: str
    dice: Dice
    items: list[WorkItem] = field(default_factory=list)

    def ask(
        self, prompt: tuple[int, ...], new: int, after: tuple[str, ...] = ()
    ) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """One more call; the prompt with a made-up reply, and what waits for it must name."""
        id = f"{self.id}-{len(self.items)}"
        self.items.append(WorkItem(id, prompt, new, after=after, program=self.id))
        return prompt + self.dice.text(new), (id,)


def mmlu(dice: Dice) -> list[WorkItem]:
    items = []
    for subject in range(4):
        shots = dice.text(dice.sized(5 * 90))
        for i in range(dice.sized(16)):
            question = shots + dice.text(dice.between(60, 120))
            items.append(WorkItem(f"mmlu-{subject}-{i}", question, 1))
    return items


def hellaswag(dice: Dice) -> list[WorkItem]:
    shots, items = dice.text(dice.sized(20 * 60)), []
    for i in range(dice.sized(16)):
        question = shots + dice.text(dice.between(30, 60))
        for ending in range(4):
            prompt = question + dice.text(dice.between(15, 35))
            items.append(WorkItem(f"hellaswag-{i}-{ending}", prompt, 1, program=f"hellaswag-{i}"))
    return items


def react(dice: Dice) -> list[WorkItem]:
    template = dice.text(dice.sized(600))

    def steps(program: Program) -> None:
        prompt = template + dice.text(dice.between(20, 60))
        after: tuple[str, ...] = ()
        for _ in range(5):
            prompt, after = program.ask(prompt, dice.between(30, 60), after)
            prompt += dice.text(dice.between(60, 160))  # what the tool said

    return _programs(dice, "react", 8, steps)


def tree_of_thought(dice: Dice) -> list[WorkItem]:
    template = dice.text(dice.sized(200))

    def grow(program: Program) -> None:
        question = template + dice.text(dice.between(50, 100))
        for _ in range(3):
            thought, after = program.ask(question, dice.sized(48))
            for _ in range(3):
                deeper, then = program.ask(thought, dice.sized(48), after)
                program.ask(deeper, dice.sized(24), then)

    return _programs(dice, "tree_of_thought", 4, grow)


def skeleton(dice: Dice) -> list[WorkItem]:
    template = dice.text(dice.sized(150))

    def expand(program: Program) -> None:
        topic = template + dice.text(dice.between(20, 40))
        outline, after = program.ask(topic, dice.sized(60))
        for _ in range(5):
            program.ask(outline + dice.text(dice.sized(12)), dice.sized(64), after)

    return _programs(dice, "skeleton", 8, expand)


def judge(dice: Dice) -> list[WorkItem]:
    template = dice.text(dice.sized(100))

    def weigh(program: Program) -> None:
        essay = template + dice.text(dice.between(300, 500))
        told = [program.ask(essay + dice.text(dice.sized(20)), dice.sized(64)) for _ in range(5)]
        summary = essay + tuple(t for said, _ in told for t in said[len(essay) :])
        program.ask(summary, dice.sized(32), tuple(id for _, ids in told for id in ids))

    return _programs(dice, "judge", 8, weigh)


def json_answers(dice: Dice) -> list[WorkItem]:
    """The limit on new tokens is not scaled: a profile cut short is no JSON."""
    template, schema = dice.text(dice.sized(128)), json.dumps(PROFILE)
    return [
        WorkItem(f"json-{i}", template + dice.text(dice.sized(32)), 160, json_schema=schema)
        for i in range(dice.sized(32))
    ]


def rag(dice: Dice) -> list[WorkItem]:
    template, items = dice.text(dice.sized(150)), []
    for context in range(8):
        passages = template + dice.text(dice.between(300, 600))
        for i in range(dice.sized(8)):
            question = passages + dice.text(dice.between(15, 40))
            items.append(WorkItem(f"rag-{context}-{i}", question, dice.sized(48)))
    return items


def multiturn_short(dice: Dice) -> list[WorkItem]:
    return _multiturn(dice, "multiturn_short", 4, 8)


def multiturn_long(dice: Dice) -> list[WorkItem]:
    return _multiturn(dice, "multiturn_long", 256, 512)


SHAPES: dict[str, Callable[[Dice], list[WorkItem]]] = {
    f"sglang-{name}": make
    for name, make in {
        "mmlu": mmlu,
        "hellaswag": hellaswag,
        "react": react,
        "tree_of_thought": tree_of_thought,
        "skeleton": skeleton,
        "judge": judge,
        "json": json_answers,
        "rag": rag,
        "multiturn_short": multiturn_short,
        "multiturn_long": multiturn_long,
    }.items()
}


# -- internals ---------------------------------------------------------------


def _programs(
    dice: Dice, name: str, number: int, write: Callable[[Program], None]
) -> list[WorkItem]:
    items: list[WorkItem] = []
    for i in range(dice.sized(number)):
        program = Program(f"{name}-{i}", dice)
        write(program)
        items += program.items
    return items


def _multiturn(dice: Dice, name: str, low: int, high: int) -> list[WorkItem]:
    def talk(program: Program) -> None:
        prompt: tuple[int, ...] = ()
        after: tuple[str, ...] = ()
        for _ in range(4):
            prompt += dice.text(dice.between(256, 512))
            prompt, after = program.ask(prompt, dice.between(low, high), after)

    return _programs(dice, name, 8, talk)
