"""Which of two results is right? A model is asked, seeing what the programs really gave.

    Judge(model, code, config).votes(questions) -> Votes      each question once, in both orders
    await calibrate(judge_of, cases) -> float                 how often it is right on known answers

A vote is 1 for the first, -1 for the second, 0 for a tie. An answer that depends on the order, or
that cannot be read, is a tie. With `judge = "likelihood"` nothing is asked: the side that the model
finds more probable (as the value that the problem wants, or as its program) has the vote, which
models can do that cannot discuss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evolute.envs.code.problem import CodeProblem
from evolute.envs.sandbox.values import decode, encode
from evolute.lang.backend import TextBackend
from evolute.reasoning.asking import log_likelihoods
from evolute.reasoning.method import seed_of
from evolute.reasoning.s_star.prompts import (
    GOES_ON,
    begun,
    put,
    to_prompt,
    value_of,
    which_output,
    which_program,
    write,
)
from evolute.reasoning.s_star.runs import Input
from evolute.reasoning.s_star.settings import SStarConfig
from evolute.reasoning.s_star.together import together
from evolute.types import BudgetSpent, SamplingParams

BLOCK_OF = "```python\n{}```"
TIE = 1e-6  # of log-likelihood
WORD = re.compile(r"\b(?:A|B|[Tt]ie|TIE)\b")


@dataclass(frozen=True, slots=True)
class Question:
    """An input with two outcomes; or, without an input, two programs. Sides in canonical order."""

    shown_input: str
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class Votes:
    """By question. `was_cut`: the budget ended before all were asked; those have no vote."""

    by_question: dict[Question, int]
    was_cut: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A known answer, to measure a judge by."""

    code: CodeProblem
    given: Input
    right: str  # canonical outcomes
    wrong: str


class Judge:
    """Asks each question once, whoever needs the answer. `asked` counts calls."""

    def __init__(self, model: TextBackend, code: CodeProblem, config: SStarConfig) -> None:
        self._model, self._code, self._config = model, code, config
        self._known: dict[Question, int] = {}
        self.asked = self.unreadable = 0

    async def votes(self, questions: Sequence[Question]) -> Votes:
        new = [one for one in dict.fromkeys(questions) if one not in self._known]
        found = await together(self._vote(one) for one in new)
        self._known |= {one: vote for one, vote in zip(new, found) if vote is not None}
        return Votes(
            {one: self._known[one] for one in questions if one in self._known},
            any(vote is None for vote in found),
        )

    async def _vote(self, question: Question) -> int | None:
        """None when the budget does not allow it."""
        try:
            if self._config.judge == "likelihood":
                return await self._weigh(question)
            first = await self._ask(question, question.one, question.other, 0)
            if not self._config.judge_swap or first == 0:
                return first
            second = await self._ask(question, question.other, question.one, 1)
        except BudgetSpent:
            return None
        return first if first == -second else 0

    async def _weigh(self, question: Question) -> int:
        """The vote by log-likelihood of both sides."""
        style = self._config.style
        if question.shown_input:
            asked, form = value_of(self._code, question.shown_input, style)
            sides = [repr(decode(side)) for side in (question.one, question.other)]
        else:
            asked, form = write(self._code, style), "{}" if style in GOES_ON else BLOCK_OF
            sides = [self._body(side) for side in (question.one, question.other)]
        prompt = await to_prompt(self._model, asked)
        scores = await log_likelihoods(self._model, prompt, [form.format(one) for one in sides])
        self.asked += 1
        one, other = map(sum, scores)
        return 0 if abs(one - other) < TIE else 1 if one > other else -1

    def _body(self, source: str) -> str:
        """What a model that completes would have written of a program."""
        style = self._config.style
        if style not in GOES_ON:
            return source
        return source.removeprefix(self._code.starter).removeprefix(begun(style))

    async def _ask(self, question: Question, one: str, other: str, turn: int) -> int:
        if question.shown_input:
            text = which_output(self._code, question.shown_input, one, other)
        else:
            text = which_program(self._code, one, other)
        sampling = SamplingParams(
            max_new_tokens=self._config.max_new_tokens,
            temperature=0.0,
            seed=seed_of(self._code.id, "judge", question, turn),
        )
        answer = await put(self._model, text, sampling)
        self.asked += 1
        vote = read_vote(answer)
        self.unreadable += vote is None
        return vote or 0


def read_vote(answer: str) -> int | None:
    """The last A, B or tie of the last line that has one; None: there is none."""
    for line in reversed(answer.splitlines()):
        found = WORD.findall(line)
        if found:
            return {"A": 1, "B": -1}.get(found[-1], 0)
    return None


def question_of(given: Input, one: str, other: str) -> tuple[Question, int]:
    """The question, and 1 or -1: whether its first side is the first given."""
    shown = ", ".join(map(repr, given))
    if one <= other:
        return Question(shown, one, other), 1
    return Question(shown, other, one), -1


async def calibrate(model: TextBackend, cases: Sequence[Case], config: SStarConfig) -> float:
    """Share of cases it gets right, ties half: `judge_accuracy`. 0.5 without cases."""
    if not cases:
        return 0.5
    right = 0.0
    for case in cases:
        question, sign = question_of(case.given, case.right, case.wrong)
        votes = await Judge(model, case.code, config).votes([question])
        right += (1 + sign * votes.by_question.get(question, 0)) / 2
    return right / len(cases)


def case_of(code: CodeProblem, given: Input, right: object, wrong: object) -> Case:
    return Case(code, given, encode(right), encode(wrong))
