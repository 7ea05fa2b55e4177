"""A teacher of `chain-with-traps` whose steps are tagged, and what its readers check.

    demonstrate(chain, rng, style) -> Trace      plan, steps, slips that are noticed, checks
    wrong_demonstration(chain, rng, how)         ends in a wrong answer: by a slip, or at random
    draw_exercise(rng, modulus, letters) -> Chain   many single steps, none resting on another
    solve(chain, rng) -> Trace                   of an exercise, all of them
    check_steps(text, chain) -> StepCheck        do steps rest on what was derived before?

Segmentation of these traces is exact, so edits of structure are too. The plan is found backwards
from what is asked, one look at a time; the steps then go forward. Whatever a step needs it says
again first (`c = b + 3. b is 5. c is 8.`), so that each word is a look at one place, or one
operation: a small network can do it, and what a step rests on can be read off it.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from evolute.envs.chains import Chain, Definition, derive
from evolute.reasoning.demonstrations.trace import Step, Trace
from evolute.types import Message

_STEP = re.compile(
    r"\b([a-z]) = (?:([a-z]) ([-+*]) (\d+)\. ([a-z]) is (\d+)|(\d+))\. ([a-z]) is (\d+)\."
)
DOMAIN = "chain-with-traps"
SHARED = 0.2  # of the steps of an exercise: from any of those given


@dataclass(frozen=True, slots=True)
class Style:
    """How often a step of the teacher's slips (and is mended), is checked, is seen another way."""

    slips: float = 0.15
    checks: float = 0.2
    others: float = 0.1
    plans: bool = True


SHORT = Style(0.0, 0.0, 0.0, plans=False)


@dataclass(frozen=True, slots=True)
class StepCheck:
    """Counts over the steps of one text."""

    num_steps: int
    num_grounded: int  # what they use was derived before, with that value
    num_right: int  # their arithmetic holds
    num_true: int  # their value is the chain's

    @property
    def coherence(self) -> float:
        """Share of steps whose premises exist; 1 without steps."""
        return self.num_grounded / self.num_steps if self.num_steps else 1.0


def demonstrate(chain: Chain, rng: random.Random, style: Style | None = None) -> Trace:
    """A right trace."""
    style = style or Style()
    steps = list(_plan(chain)) if style.plans else []
    values: dict[str, int] = {}
    for one in chain.path:
        steps += _resolve(one, values, chain.modulus, rng, style)
    return _finished(chain, steps, values[chain.asked])


def wrong_demonstration(
    chain: Chain, rng: random.Random, how: Literal["slip", "random"] = "slip"
) -> Trace:
    """A trace with a wrong answer: `slip`, one step goes wrong unnoticed and all later ones follow
    from it; `random`, right steps and then another answer."""
    right = chain.values[chain.asked]
    while True:
        values: dict[str, int] = {}
        steps = list(_plan(chain))
        slipped = rng.choice(chain.path).name if how == "slip" else ""
        for one in chain.path:
            true = one.value(values.get(one.source, 0), chain.modulus)
            told = _other(true, chain.modulus, rng) if one.name == slipped else true
            steps.append(Step("STEP", _line(one, values, told)))
            values[one.name] = told
        answer = values[chain.asked] if how == "slip" else _other(right, chain.modulus, rng)
        if answer != right:
            return _finished(chain, steps, answer)


def draw_exercise(rng: random.Random, modulus: int, letters: int) -> Chain:
    """Breadth without depth: half of the variables are given, each other one is a single step from
    one of them, most from one that no other uses."""
    names = rng.sample(string.ascii_lowercase[:letters], rng.randint(3, min(10, letters)))
    half = len(names) // 2
    given = [Definition(name, "", "", rng.randrange(modulus)) for name in names[:half]]
    sources = [rng.choice(names[:half]) if rng.random() < SHARED else n for n in names[:half]]
    sources += rng.sample(names[:half], len(names) - 2 * half)
    derived = [derive(rng, name, source, modulus) for name, source in zip(names[half:], sources)]
    return Chain(tuple(rng.sample([*given, *derived], len(names))), names[-1], modulus)


def solve(chain: Chain, rng: random.Random) -> Trace:
    """Every variable of an exercise: what each needs, then those given, then each other, in an
    order by chance."""
    given = [d for d in chain.definitions if not d.source]
    derived = rng.sample(rest := [d for d in chain.definitions if d.source], len(rest))
    values = _all_values(chain)
    steps = [Step("PLAN", _needs(rng.sample(derived, len(derived))))]
    steps += [Step("STEP", _line(one, values, values[one.name])) for one in (*given, *derived)]
    question = f"{chain.question.rpartition(' ')[0]} each?"
    last = derived[-1].name
    return Trace(_asked(question), tuple(steps), f"{last} is {values[last]}", question, "exercise")


def check_steps(text: str, chain: Chain) -> StepCheck:
    """Read the steps of a thought and hold them against each other and the chain. A later step may
    mend an earlier one."""
    known: dict[str, int] = {}
    told = {str(definition) for definition in chain.definitions}
    true = _all_values(chain)
    steps = grounded = right = truly = 0
    for name, source, operation, number, again, left, given, named, value in _STEP.findall(text):
        steps += 1
        middle = f"{source} {operation} {number}" if source else given
        is_said = f"{name} = {middle}" in told and again == source and named == name
        grounded += is_said and (not source or known.get(source) == int(left))
        one = Definition(name, source, operation, int(number or given))
        right += one.value(int(left or 0), chain.modulus) == int(value)
        truly += true.get(named) == int(value)
        known[named] = int(value)
    return StepCheck(steps, grounded, right, truly)


# -- internals ---------------------------------------------------------------


def _plan(chain: Chain) -> Iterator[Step]:
    """Backwards from what is asked, in one step."""
    yield Step("PLAN", _needs(tuple(reversed(chain.path))))


def _needs(definitions: Sequence[Definition]) -> str:
    return " ".join(["Plan:", *(f"{d.name} needs {d.source or 'nothing'}." for d in definitions)])


def _resolve(
    one: Definition, values: dict[str, int], modulus: int, rng: random.Random, style: Style
) -> Iterator[Step]:
    true = one.value(values.get(one.source, 0), modulus)
    right = _line(one, values, true)
    if one.source and rng.random() < style.slips:
        yield Step("STEP", _line(one, values, _other(true, modulus, rng)))
        yield Step("DOUBT", f"Wait, {one.name} looks wrong.")
        yield Step("BACKTRACK", f"Going back to {one.name}. {right}")
    else:
        yield Step("STEP", right)
    values[one.name] = true
    if one.source and rng.random() < style.checks:
        yield Step("CHECK", f"Check that {_sum(one, values)} = {true}: {one.name} is {true}.")
    if one.operation in ("+", "-") and rng.random() < style.others:
        agrees = _backwards(one, values, modulus)
        yield Step("ALT", f"Alternatively, {agrees}: {one.name} is {true}.")


def _line(one: Definition, values: dict[str, int], value: int) -> str:
    premise = f" {one.source} is {values[one.source]}." if one.source else ""
    return f"{one}.{premise} {one.name} is {value}."


def _sum(one: Definition, values: dict[str, int]) -> str:
    return f"{values[one.source]} {one.operation} {one.number}"


def _backwards(one: Definition, values: dict[str, int], modulus: int) -> str:
    """From the result to the source: the inverse operation gives what was begun with."""
    inverse = {"+": "-", "-": "+"}[one.operation]
    return f"{values[one.name]} {inverse} {one.number} = {values[one.source] % modulus}"


def _finished(chain: Chain, steps: list[Step], answer: int) -> Trace:
    steps = [*steps, Step("CONCLUDE", f"So {chain.asked} is {answer}.")]
    question, solution = chain.question, f"{chain.asked} is {answer}"
    return Trace(_asked(question), tuple(steps), solution, question, DOMAIN)


def _asked(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def _other(value: int, modulus: int, rng: random.Random) -> int:
    return (value + rng.randrange(1, modulus)) % modulus


def _all_values(chain: Chain) -> dict[str, int]:
    """Of every variable, traps included."""
    defined = {d.name: d for d in chain.definitions}
    found: dict[str, int] = {}

    def value(name: str) -> int:
        if name not in found:
            one = defined[name]
            found[name] = one.value(value(one.source) if one.source else 0, chain.modulus)
        return found[name]

    return {name: value(name) for name in defined}
