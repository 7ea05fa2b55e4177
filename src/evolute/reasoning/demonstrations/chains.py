"""A teacher of `chain-with-traps` whose steps are tagged, and what its readers check.

    demonstrate(chain, rng, style) -> Trace      plan, steps, slips that are noticed, checks
    wrong_demonstration(chain, rng, how)         ends in a wrong answer: by a slip, or at random
    check_steps(text, chain) -> StepCheck        do steps rest on what was derived before?

Segmentation of these traces is exact, so edits of structure are too. The plan is found backwards
from what is asked, one look at a time; the steps then go forward.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evolute.envs.chains import Chain, Definition, compute
from evolute.reasoning.demonstrations.trace import Step, Trace
from evolute.types import Message

_STEP = re.compile(r"\b([a-z]) = (?:([a-z]) ([-+*]) (\d+) = (\d+) [-+*] (\d+) = )?(\d+)\.")
DOMAIN = "chain-with-traps"


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


def check_steps(text: str, chain: Chain) -> StepCheck:
    """Read the steps of a thought and hold them against each other and the chain. A later step may
    mend an earlier one."""
    known: dict[str, int] = {}
    defined = {d.name: d for d in chain.definitions}
    true = _all_values(chain)
    steps = grounded = right = truly = 0
    for name, source, operation, number, left, again, value in _STEP.findall(text):
        steps += 1
        given = defined.get(name)
        if source:
            grounded += known.get(source) == int(left) and number == again
            right += compute(int(left), operation, int(again), chain.modulus) == int(value)
        else:
            grounded += given is not None and not given.source
            right += given is not None and not given.source and given.number == int(value)
        truly += true.get(name) == int(value)
        known[name] = int(value)
    return StepCheck(steps, grounded, right, truly)


# -- internals ---------------------------------------------------------------


def _plan(chain: Chain) -> Iterator[Step]:
    """Backwards from what is asked, in one step."""
    needs = [f"{one.name} needs {one.source}." for one in reversed(chain.path) if one.source]
    yield Step("PLAN", " ".join(["Plan:", *needs, f"{chain.path[0].name} is given."]))


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
        yield Step("CHECK", f"Check {one.name}: {_sum(one, values)} = {true}. It holds.")
    if one.operation in ("+", "-") and rng.random() < style.others:
        yield Step("ALT", f"Alternatively, {_backwards(one, values, modulus)}. It agrees.")


def _line(one: Definition, values: dict[str, int], value: int) -> str:
    return f"{one} = {_sum(one, values)} = {value}." if one.source else f"{one.name} = {value}."


def _sum(one: Definition, values: dict[str, int]) -> str:
    return f"{values[one.source]} {one.operation} {one.number}"


def _backwards(one: Definition, values: dict[str, int], modulus: int) -> str:
    """From the result to the source: the inverse operation gives what was begun with."""
    inverse = {"+": "-", "-": "+"}[one.operation]
    return f"{values[one.name]} {inverse} {one.number} = {values[one.source] % modulus}"


def _finished(chain: Chain, steps: list[Step], answer: int) -> Trace:
    steps = [*steps, Step("CONCLUDE", f"So {chain.asked} is {answer}.")]
    question, solution = chain.question, f"{chain.asked} = {answer}"
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
