"""Who plays a model in S* where none is needed: right now and then, wrong in known ways.

StandIn(problems, skill)      a TextBackend that writes, repairs, proposes inputs, and judges
Skill(...)                    how often it is right at each of these

Every answer follows from the request alone, so all policies meet the same model.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolute.bench.thoughts.teacher import Teacher
from evolute.envs.code.list_operations import OPERATIONS, apply, source_of
from evolute.envs.sandbox.values import encode
from evolute.lang.account import Spent
from evolute.lang.backend import Reply, TextRequest
from evolute.types import FinishReason, Output, Problem

CHARS_PER_TOKEN = 4  # what it bills
GROUNDED = re.compile(r"on the input (\[.*\])\.\nA gave: (.*)\nB gave: (.*)\n")
UNSEEN = re.compile(r"Program A:\n```python\n(.*?)```\nProgram B:\n```python\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Skill:
    """Probabilities. `shared` of the wrong programs have the problem's one plausible mistake."""

    writes: float = 0.3
    repairs: float = 0.3
    shared: float = 0.1
    judges: float = 0.8  # seeing two outputs
    guesses: float = 0.58  # seeing two programs only
    predicts: float = 0.6  # the expected value of a test of its own


class StandIn(Teacher):
    """Chats, as the teacher does; knows the problems of list-programs by their statements."""

    model_name = "stand-in"

    def __init__(self, problems: Sequence[Problem], skill: Skill, seed: int = 0) -> None:
        super().__init__()
        self._problems = {problem.id: problem for problem in problems}
        self._skill, self._seed = skill, seed

    async def generate(self, request: TextRequest) -> Reply:
        self.calls += 1
        asked = "\n".join(message["content"] for message in request.prompt.messages)
        text = self._say(asked, request.sampling.seed or 0)
        spent = Spent(1, -(-len(asked) // CHARS_PER_TOKEN), 0, -(-len(text) // CHARS_PER_TOKEN))
        output = Output(
            text=text,
            token_ids=(),
            logprobs=(),
            finish_reason=FinishReason.STOP,
            cached_tokens=0,
            weight_version=0,
            prompt_tokens=spent.prompt_tokens,
            index=0,
        )
        return Reply((output,), spent)

    # -- internals ---------------------------------------------------------------

    def _say(self, text: str, seed: int) -> str:
        problem = next(one for name, one in self._problems.items() if name in text)
        if "Which result is right?" in text or "Which program is right?" in text:
            return self._judge(problem, text)
        source = random.Random(f"{self._seed}/{problem.id}/{seed}")
        if " tests. One test a line" in text:
            return self._tests(problem, source)
        if " inputs that test such" in text or " inputs on which" in text:
            return "\n".join(f"({_xs(source)},)" for _ in range(10))
        is_repair = "The last attempt is wrong." in text
        return f"```python\n{self._program(problem, source, is_repair)}```"

    def _program(self, problem: Problem, source: random.Random, is_repair: bool) -> str:
        skill, told = self._skill, problem.extras["stand_in"]
        if source.random() < (skill.repairs if is_repair else skill.writes):
            return problem.gold
        if not is_repair and source.random() < skill.shared:
            return str(told["mistake"])
        names = list(told["operations"])
        for _ in range(source.randint(1, 2)):
            place = source.randrange(len(names))
            names[place] = source.choice(sorted(OPERATIONS))
        return source_of([OPERATIONS[name].expression for name in names])

    def _tests(self, problem: Problem, source: random.Random) -> str:
        lines = []
        for _ in range(10):
            xs = _xs(source)
            names = list(problem.extras["stand_in"]["operations"])
            if source.random() >= self._skill.predicts:
                names[source.randrange(len(names))] = source.choice(sorted(OPERATIONS))
            lines.append(f"(({xs},), {_apply(names, xs)})")
        return "\n".join(lines)

    def _judge(self, problem: Problem, text: str) -> str:
        """Right as often as its skill says, for a question whatever the order of its sides."""
        seen = GROUNDED.search(text)
        if seen is not None:
            xs = ast.literal_eval(seen[1])
            wanted = encode(_apply(problem.extras["stand_in"]["operations"], xs))
            sides, skill = (seen[2], seen[3]), self._skill.judges
        else:
            found = UNSEEN.search(text)
            assert found is not None
            sides, wanted, skill = (found[1], found[2]), problem.gold, self._skill.guesses
        key = f"{self._seed}/{problem.id}/{seen and seen[1]}/{sorted(sides)}"
        is_able = random.Random(key).random() < skill
        if wanted not in sides:
            word = "A" if (sides[0] < sides[1]) == (random.Random(key).random() < 0.5) else "B"
        else:
            word = "A" if (sides[0] == wanted) == is_able else "B"
        return f"It follows.\n{word}"


def _xs(source: random.Random) -> list[int]:
    return [source.randint(-12, 12) for _ in range(source.randint(0, 7))]


def _apply(names: Sequence[str], xs: Sequence[int]) -> list[int]:
    return apply([OPERATIONS[name].expression for name in names], xs)


def skills() -> Mapping[str, Skill]:
    """By suite: wrong programs that differ from one another, or share a mistake."""
    return {"diverse": Skill(), "systematic": Skill(writes=0.2, shared=0.45)}
