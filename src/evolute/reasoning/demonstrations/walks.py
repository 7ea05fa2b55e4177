"""A teacher of `walk` whose steps are tagged, and what its readers check.

    demonstrate_walk(walk, rng, style) -> Trace    plan, steps, slips that are noticed, checks
    wrong_walk(walk, rng, how) -> Trace            ends in a wrong answer: by a slip, or at random
    exercise(rng, modulus, times) -> Trace         single steps, none of which rests on another
    sums(rng, modulus) -> Trace                    what every step needs, and nothing else
    check_walk(text, walk) -> StepCheck            do steps rest on what was derived before?

Each step ends with where the walk stands, how many steps are left and by which rules, so the next
one needs nothing but the step before it: a network of two layers can do it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Literal

from evolute.envs.chains import compute
from evolute.envs.walks import COUNT, Rule, Walk, count_of, draw_walk, read_count
from evolute.reasoning.demonstrations.chains import StepCheck, Style
from evolute.reasoning.demonstrations.trace import Step, Trace
from evolute.types import Message

DOMAIN = "walk"
NUM_SINGLE, NUM_SUMS = 4, 24  # steps of an exercise, and of sums
_INVERSE = {"+": "-", "-": "+"}
_STEP = re.compile(
    rf"(?:^|\n\n)(?:Check: |Going back: )?(\d+) ([-+]) (\d+) = (\d+), ({COUNT}) left:"
)


def demonstrate_walk(walk: Walk, rng: random.Random, style: Style | None = None) -> Trace:
    """A right trace; without plans (a short one) each step is only told."""
    steps, value = _walked(walk, rng, style or Style(), slipped=-1)
    return _finished(walk, steps, value)


def wrong_walk(
    walk: Walk,
    rng: random.Random,
    how: Literal["slip", "random"] = "slip",
    style: Style | None = None,
) -> Trace:
    """A trace with a wrong answer by the same teacher: `slip`, one step goes wrong unnoticed and
    all later ones follow from it; `random`, right steps and then another answer."""
    slipped = rng.randrange(walk.times) if how == "slip" else -1
    steps, value = _walked(walk, rng, style or Style(), slipped)
    return _finished(walk, steps, value if how == "slip" else _other(value, walk.modulus, rng))


def exercise(rng: random.Random, modulus: int, times: int) -> Trace:
    """What a student knows before walks: breadth without depth. Each step begins anew, at any
    place of a walk of up to `times` steps."""
    walks = [draw_walk(rng, (1, times), modulus) for _ in range(NUM_SINGLE)]
    steps = []
    for walk in walks:
        steps.append(plan_of(walk))
        steps.append(Step("STEP", _line(walk, 0, walk.start, walk.values[1])))
    question = f"Single steps, mod {modulus}."
    return Trace(
        _asked(question), tuple(steps), f"The end is {walks[-1].values[1]}", "", "exercise"
    )


def sums(rng: random.Random, modulus: int) -> Trace:
    """Sums and differences that have nothing to do with each other. Small numbers come more often
    (the lesser of two): if all were alike, neither number alone would tell anything about the sum,
    and nothing would be learned for long."""
    steps, value = [], 0
    for _ in range(NUM_SUMS):
        before, sign = rng.randrange(modulus), rng.choice("+-")
        number = min(rng.randrange(1, modulus), rng.randrange(1, modulus))
        value = compute(before, sign, number, modulus)
        steps.append(Step("STEP", f"{before} {sign} {number} = {value}."))
    question = f"Sums, mod {modulus}."
    return Trace(_asked(question), tuple(steps), f"The end is {value}", "", "sums")


def check_walk(text: str, walk: Walk) -> StepCheck:
    """Read the steps of a thought and hold them against each other and the walk. A later step may
    mend an earlier one."""
    known, true = {walk.times: walk.start}, walk.values
    steps = grounded = right = truly = 0
    for before, operation, number, value, left in _STEP.findall(text):
        place, rule = read_count(left), Rule(operation, int(number))
        steps += 1
        is_rule = rule == walk.rules[(walk.times - place - 1) % 2]
        grounded += is_rule and known.get(place + 1) == int(before)
        right += compute(int(before), operation, int(number), walk.modulus) == int(value)
        truly += place < walk.times and true[walk.times - place] == int(value)
        known[place] = int(value)
    return StepCheck(steps, grounded, right, truly)


def plan_of(walk: Walk) -> Step:
    """Where it begins, how many steps are left, and by which rules."""
    return Step("PLAN", f"Plan: {_state(walk, 0, walk.start)}")


# -- internals ---------------------------------------------------------------


def _walked(walk: Walk, rng: random.Random, style: Style, slipped: int) -> tuple[list[Step], int]:
    """All steps and where they lead; the step after `slipped` others is wrong and stays so."""
    steps, value = [plan_of(walk)] if style.plans else [], walk.start
    for done in range(walk.times):
        before, value = value, walk.next(value, done)
        if done == slipped:
            value = _other(value, walk.modulus, rng)
        steps += _step(walk, done, before, value, rng, style)
    return steps, value


def _step(
    walk: Walk, done: int, before: int, value: int, rng: random.Random, style: Style
) -> Iterator[Step]:
    line = _line(walk, done, before, value)
    if rng.random() < style.slips:
        wrong = _other(value, walk.modulus, rng)
        yield Step("STEP", _line(walk, done, before, wrong))
        yield Step("DOUBT", f"Wait, {wrong} looks wrong.")
        yield Step("BACKTRACK", f"Going back: {line}")
    else:
        yield Step("STEP", line)
    if rng.random() < style.checks:
        yield Step("CHECK", f"Check: {line}")
    if rng.random() < style.others:
        rule = walk.rules[done % 2]
        again = f"{value} {_INVERSE[rule.operation]} {rule.number} = {before}"
        yield Step("ALT", f"Alternatively, {again}: {_state(walk, done + 1, value)}")


def _line(walk: Walk, done: int, before: int, value: int) -> str:
    """The step after `done` others, and what is left after it."""
    rule = walk.rules[done % 2]
    told = f"{before} {rule.operation} {rule.number} = "
    return told + _state(walk, done + 1, value)


def _state(walk: Walk, done: int, value: int) -> str:
    """Where the walk stands, how many steps are left, and the rules in the order of their turns."""
    rules = f"{walk.rules[done % 2]}, {walk.rules[(done + 1) % 2]}"
    return f"{value}, {count_of(walk.times - done)} left: {rules}."


def _finished(walk: Walk, steps: list[Step], answer: int) -> Trace:
    steps = [*steps, Step("CONCLUDE", f"So the end is {answer}.")]
    question, solution = walk.question, f"The end is {answer}"
    return Trace(_asked(question), tuple(steps), solution, question, DOMAIN)


def _asked(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def _other(value: int, modulus: int, rng: random.Random) -> int:
    return (value + rng.randrange(1, modulus)) % modulus
