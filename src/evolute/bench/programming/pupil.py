"""A small model that is taught to write, mend and judge short programs, within minutes.

    pupil(seed, sizes, folder, problems) -> LoadedModel    taught by supervised fine-tuning
    lessons(problems, sizes, seed) -> rows                 what it is taught, from a train split
    cases(problems, count, seed) -> cases                  known answers, to measure a judge by

One network learns three things from the same statements: the program, the program after a wrong
one with what its tests said, and the value that a right program gives for an input. The third makes
it a judge: the side of a question that it finds more probable (`judge = "likelihood"`). The
programs that it learns from are no better than most: a `misread` share of their steps has the
operation's plausible mistake, which the one public example does not show. So it writes a right
program now and then, and its wrong ones pass; the values that it learns are right.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolute.envs.code.list_operations import OPERATIONS, apply, source_of
from evolute.envs.code.problem import CodeProblem, code_problem
from evolute.envs.sandbox.calls import CallReport
from evolute.envs.sandbox.values import encode
from evolute.models import LoadedModel
from evolute.reasoning.demonstrations.student import student
from evolute.reasoning.s_star.generate import judged
from evolute.reasoning.s_star.judge import Case, case_of
from evolute.reasoning.s_star.prompts import BLOCK, Question, repair, value_of, write
from evolute.train.settings import OptimizerConfig
from evolute.train.sft import SftConfig, SftController
from evolute.types import Problem

Row = Mapping[str, Any]
PHRASES = (
    "Write a Python function f(xs) that takes and returns a list of integers.\n"
    "Do these steps in this order:\n",
    *("\n1. ", "\n2. ", "\n3. ", "\nExamples:\n", "f([", "]) == [", "\n\n", BLOCK),
    "What does a right program give for the input ",
    "? Answer with the value alone, between backticks.",
    *("```python\ndef f(xs):\n", "    xs = ", "    return xs\n```"),
    *("Attempt ", ":\n", "\nIts tests:\n"),
    *("The last attempt is wrong. Write a right one. ", "input ", ": expected ", "which it gave"),
    *("got ", "raised: ", "`[", "]`", ", ", " for x in xs", " if ", " % ", " == ", " > 0", " < 0"),
    *(" for a, b in zip(xs, xs[1:])]", "for i", " in enumerate(xs)", " in range(len(xs))"),
    *("sorted(xs", "reverse=True", "key=abs", "list(dict.fromkeys(xs))", "max(", "min(", "abs(x)"),
    *("sum(xs[:i + 1])", "xs[", "xs", "[x", " + ", " - ", " * ", " != "),
    *(operation.phrase for operation in OPERATIONS.values()),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many lessons of each kind; each is seen `epochs` times."""

    written: int = 6_000
    mended: int = 1_000
    values: int = 22_000
    misread: float = 0.5  # share of steps, of those that can be, in programs that it learns from
    epochs: int = 1
    batch: int = 32
    lr: float = 2e-3
    width: int = 128
    num_layers: int = 4


def pupil(
    seed: int, sizes: Sizes, folder: Path, problems: Sequence[Problem], on_step: Any = None
) -> LoadedModel:
    """Taught on `problems`, which must be a train split. `folder` gets the run."""
    model = student(seed, sizes.width, sizes.num_layers, PHRASES)
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "lessons.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in lessons(problems, sizes, seed)))
    config = SftConfig(
        model=model.name,
        data=(str(rows),),
        epochs=sizes.epochs,
        batch_size=sizes.batch,
        micro_batch_tokens=8192,
        method="full",
        optimizer=OptimizerConfig(lr=sizes.lr, warmup_steps=20, beta2=0.98),
        seed=seed,
        checkpoint_every=1_000_000,
    )
    run = SftController(config, folder / "run", model)
    run.run(on_step)
    return dataclasses.replace(model, name="pupil", weights=run.policy.base_weights())


def lessons(problems: Sequence[Problem], sizes: Sizes, seed: int) -> list[Row]:
    """Rows of `train sft`, mixed. Problems are taken in turn, again where there are too few."""
    source = random.Random(f"lessons/{seed}")
    misread = sizes.misread
    rows = [_written(problem, source, misread) for problem in _in_turn(problems, sizes.written)]
    rows += [_mended(problem, source, misread) for problem in _in_turn(problems, sizes.mended)]
    rows += [_value(problem, source) for problem in _in_turn(problems, sizes.values)]
    source.shuffle(rows)
    return rows


def cases(problems: Sequence[Problem], count: int, seed: int) -> list[Case]:
    """An input, what the right program gives and what one with a mistake gives that passes the
    public tests: as hard as what a tournament asks."""
    source, found = random.Random(f"cases/{seed}"), list[Case]()
    for k in range(100 * count):
        if len(found) == count:
            break
        problem = problems[k % len(problems)]
        code, names = code_problem(problem), problem.extras["stand_in"]["operations"]
        wrong, xs = (
            source.choice((spoiled(names, source), _read(names, source, 1.0))),
            _list(source),
        )
        if not _feedback(code, wrong)[1]:
            continue
        sides = _given(expressions_of(names), xs), _given(wrong, xs)
        if None not in sides and sides[0] != sides[1]:
            found.append(case_of(code, (xs,), *sides))
    return found


# -- internals ---------------------------------------------------------------


def _in_turn(problems: Sequence[Problem], count: int) -> Iterator[Problem]:
    return itertools.islice(itertools.cycle(problems), count)


def _written(problem: Problem, source: random.Random, misread: float) -> Row:
    return _row(write(code_problem(problem), "chat"), _program(problem, source, misread))


def _mended(problem: Problem, source: random.Random, misread: float) -> Row:
    """After one or two programs that fail the public tests."""
    code, names = code_problem(problem), problem.extras["stand_in"]["operations"]
    told = []
    for _ in range(source.randint(1, 2)):
        for _ in range(100):
            wrong = spoiled(names, source)
            source_text, feedback = source_of(wrong), _feedback(code, wrong)
            if not feedback[1]:
                told.append((source_text, feedback[0]))
                break
    return _row(repair(code, told, "chat"), _program(problem, source, misread))


def _value(problem: Problem, source: random.Random) -> Row:
    names = problem.extras["stand_in"]["operations"]
    xs = _telling(names, source) if source.random() < 0.5 else _list(source)
    question, form = value_of(code_problem(problem), repr(xs), "chat")
    value = apply(expressions_of(names), xs)
    return _row(question, form.format(repr(value)))


def spoiled(names: Sequence[str], source: random.Random) -> list[str]:
    """Expressions with one or two operations taken for others."""
    changed = list(names)
    for _ in range(source.randint(1, 2)):
        changed[source.randrange(len(changed))] = source.choice(sorted(OPERATIONS))
    return expressions_of(changed)


def expressions_of(names: Sequence[str]) -> list[str]:
    """Their expressions."""
    return [OPERATIONS[name].expression for name in names]


def _read(names: Sequence[str], source: random.Random, misread: float) -> list[str]:
    """Expressions, some of them with their operation's mistake."""
    known = [OPERATIONS[name] for name in names]
    return [
        one.mistake if one.mistake and source.random() < misread else one.expression
        for one in known
    ]


def _program(problem: Problem, source: random.Random, misread: float) -> str:
    names = problem.extras["stand_in"]["operations"]
    return f"```python\n{source_of(_read(names, source, misread))}```"


def _telling(names: Sequence[str], source: random.Random) -> list[int]:
    """A list on which a mistake shows, if one is found soon."""
    right, wrong = expressions_of(names), _read(names, source, 1.0)
    drawn = [_list(source) for _ in range(8)]
    return next((xs for xs in drawn if _given(right, xs) != _given(wrong, xs)), drawn[-1])


def _list(source: random.Random) -> list[int]:
    return [source.randint(-12, 12) for _ in range(source.randint(0, 7))]


def _given(expressions: Sequence[str], xs: list[int]) -> list[int] | None:
    try:
        return apply(expressions, xs)
    except ValueError:
        return None


def _feedback(code: CodeProblem, expressions: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """What the public tests say of a program, and whether all hold."""
    reports = []
    for test in code.public:
        try:
            value = encode(apply(expressions, test.arguments[0]))
            reports.append(CallReport("ok", value=value))
        except ValueError as error:
            reports.append(CallReport("raised", error=f"ValueError: {error}"))
    attempt = judged(code, source_of(expressions), reports)
    return attempt.feedback, attempt.passed == len(code.public)


def _row(question: Question, answer: str) -> Row:
    assert isinstance(question, str)
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}
