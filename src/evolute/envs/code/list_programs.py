"""Small programs on lists, described in words: problems without end, with known answers.

    list-programs                               3 to 5 operations, two weak examples
    list-programs?ops=1-2                       how many operations
    list-programs?errors=systematic             the examples agree with one plausible mistake too
    list-programs?public=0                      how many examples (0 to 8)

list_programs(name, sandbox) -> CodeTask

`Problem.extras["stand_in"]` names the operations and the mistake, for programs that stand in for a
model in tests and benches.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from evolute.envs.base import draw_problems
from evolute.envs.code.list_operations import OPERATIONS, apply, source_of
from evolute.envs.code.problem import CodeProblem, Test, packed
from evolute.envs.code.task import CodeTask, Grade, passes_all
from evolute.envs.sandbox.contract import Sandbox
from evolute.types import ConfigError, Problem

FAMILY = "list-programs"
NUM_PRIVATE = 60
TRIES = 60  # of drawing a program, or examples, that fit the options
EDGES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (-3,),
    (4, 4),
    (-2, 2, -2),
    (0, 0, 0),
    (9, -9, 9, -9),
)
OPTIONS = "ops (1 to 8, or 3-5), errors (diverse or systematic), public (0 to 8)"


@dataclass(frozen=True, slots=True)
class Options:
    least: int = 3
    most: int = 5
    errors: str = "diverse"
    public: int = 2


@dataclass(frozen=True, slots=True)
class Program:
    """Names of the operations, which of them is misread ("" for none), examples."""

    names: tuple[str, ...]
    misread: int
    examples: tuple[tuple[int, ...], ...]

    @property
    def right(self) -> list[str]:
        return [OPERATIONS[name].expression for name in self.names]

    @property
    def wrong(self) -> list[str]:
        """With the mistake in it."""
        expressions = self.right
        expressions[self.misread] = OPERATIONS[self.names[self.misread]].mistake
        return expressions


def list_programs(name: str, sandbox: Callable[[], Sandbox]) -> CodeTask:
    """Raises ConfigError for options that do not exist, or where no sandbox can be had."""
    options = read_options(name)

    def draw(split: str, count: int, seed: int) -> list[tuple[Problem, Grade]]:
        programs: dict[str, Program] = {}

        def one(source: random.Random) -> tuple[str, str]:
            program = draw_program(source, options)
            text = statement(program)
            programs[text] = program
            return text, source_of(program.right)

        drawn = draw_problems(name, one, split, count, seed)
        return [_packed(problem, programs[problem.id]) for problem in drawn]

    return CodeTask(name, draw, sandbox(), max_new_tokens=192)


def read_options(name: str) -> Options:
    """The part behind the question mark."""
    text = name.partition("?")[2]
    try:
        pairs = dict(parse_qsl(text, strict_parsing=bool(text)))
        least, _, most = pairs.pop("ops", "3-5").partition("-")
        options = Options(
            int(least),
            int(most or least),
            pairs.pop("errors", "diverse"),
            int(pairs.pop("public", 2)),
        )
    except ValueError as error:
        raise ConfigError(
            f"options of {name!r} cannot be read: {error}. Options: {OPTIONS}."
        ) from None
    is_good = 1 <= options.least <= options.most <= 8 and 0 <= options.public <= 8
    if pairs or not is_good or options.errors not in ("diverse", "systematic"):
        raise ConfigError(f"task {name!r} has options out of range. Options: {OPTIONS}.")
    return options


def draw_program(source: random.Random, options: Options) -> Program:
    """Operations and examples; a systematic error passes the examples, and not the tests."""
    for _ in range(TRIES * TRIES):
        names = tuple(
            source.sample(sorted(OPERATIONS), source.randint(options.least, options.most))
        )
        misread = [i for i, one in enumerate(names) if OPERATIONS[one].mistake]
        if not misread:
            continue
        place = source.choice(misread)
        program = Program(names, place, ())
        if not _differs(program) or not _says_something(program):
            continue
        for _ in range(TRIES):
            examples = tuple(_example(source, options) for _ in range(options.public))
            program = Program(names, place, examples)
            if options.errors == "diverse" or _passes_wrongly(program):
                return program
    raise ConfigError("no program fits the options; allow more operations or fewer examples.")


def statement(program: Program) -> str:
    """The problem in words."""
    steps = [f"{i}. {OPERATIONS[n].phrase}" for i, n in enumerate(program.names, 1)]
    shown = [f"f({list(xs)}) == {apply(program.right, xs)}" for xs in program.examples]
    lines = [
        "Write a Python function f(xs) that takes and returns a list of integers.",
        "Do these steps in this order:",
        *steps,
        *(["Examples:", *shown] if shown else []),
    ]
    return "\n".join(lines)


def private_inputs(text: str) -> list[tuple[int, ...]]:
    """What programs for this statement are tried on: edges first, then random lists."""
    source = random.Random(f"private/{text}")
    drawn = [
        tuple(source.randint(-12, 12) for _ in range(source.randint(1, 9)))
        for _ in range(NUM_PRIVATE - len(EDGES))
    ]
    return [*EDGES, *drawn]


# -- internals ---------------------------------------------------------------


def _example(source: random.Random, options: Options) -> tuple[int, ...]:
    low = 0 if options.errors == "systematic" else -9
    return tuple(source.randint(low, 9) for _ in range(source.randint(2, 5)))


def _passes_wrongly(program: Program) -> bool:
    return all(apply(program.wrong, xs) == apply(program.right, xs) for xs in program.examples)


def _differs(program: Program) -> bool:
    """Is the mistake one that the private tests find?"""
    inputs = private_inputs(" ".join(program.names))
    return sum(apply(program.wrong, xs) != apply(program.right, xs) for xs in inputs) > 5


def _says_something(program: Program) -> bool:
    """Not the same answer for nearly every list."""
    inputs = private_inputs(" ".join(program.names))
    return len({tuple(apply(program.right, xs)) for xs in inputs}) > 15


def _packed(problem: Problem, program: Program) -> tuple[Problem, Grade]:
    public = tuple(Test((list(xs),), apply(program.right, xs)) for xs in program.examples)
    text = problem.id
    code = CodeProblem(text, text, "function", "f", "def f(xs):\n", public, completes=True)
    stand_in = {"operations": list(program.names), "mistake": source_of(program.wrong)}
    extras = {"code": packed(code), "stand_in": stand_in}
    ask = f"{text}\nAnswer with one Python code block."
    full = Problem(text, ({"role": "user", "content": ask},), problem.gold, extras)

    async def grade(sandbox: Sandbox, code: CodeProblem, source: str) -> bool:
        inputs = [*program.examples, *private_inputs(text)]
        tests = [Test((list(xs),), apply(program.right, xs)) for xs in inputs]
        return await passes_all(sandbox, code, source, tests)

    return full, grade
