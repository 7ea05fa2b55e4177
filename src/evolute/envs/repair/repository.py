"""A generated repository with one planted bug: what is in it, and what is right.

    draw_repository(source, shape, split) -> Repository
    repository.files(is_mended)           path -> text; with the bug, or without it
    repository.tests()                    function, input, right value, whether the bug shows

Functions do steps of `code/list_operations` one after another and call each other across modules;
their docstrings tell the truth, whatever the code does. No function of one split is in the other:
a hash of its steps decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from evolute.envs.base import split_of
from evolute.envs.code.list_operations import OPERATIONS, apply

PACKAGES = ("orchard", "harbour", "lantern", "meadow", "quarry", "weaver", "granary", "beacon")
MODULES = ("prices", "levels", "readings", "scores", "lengths", "orders", "weights", "counts")
VERBS = ("tidy", "pick", "shift", "fold", "trim", "gather", "blend", "sift", "settle", "mark")
NOUNS = ("rows", "marks", "steps", "values", "items", "points", "parts", "slots", "peaks", "gaps")
EDGES = ((), (0,), (-3,), (4, 4), (-2, 2, -2), (9, -9, 9, -9), (1, 2, 3, 4, 5, 6, 7))
NUM_INPUTS = 24
MIN_SHOWN = 3  # inputs that show the bug
TRIES = 2000


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of everything. `steps` of a function; `calls`: functions may call others."""

    modules: int = 3
    functions: int = 3  # of each module
    steps: int = 2
    calls: bool = True


@dataclass(frozen=True, slots=True)
class Function:
    """`steps` are names of operations, or of functions before it with `()` behind."""

    name: str
    module: str
    steps: tuple[str, ...]
    bug: str = ""  # mistake, missing or order
    place: int = 0  # of the step that the bug is at


@dataclass(frozen=True, slots=True)
class Test:
    function: Function
    xs: tuple[int, ...]
    expected: list[int]
    shows_bug: bool


@dataclass(frozen=True, slots=True)
class Repository:
    """Invariant: exactly one function has a bug, and at least three inputs show it."""

    package: str
    functions: tuple[Function, ...]  # calls go to earlier ones

    @property
    def buggy(self) -> Function:
        return next(function for function in self.functions if function.bug)

    def files(self, *, is_mended: bool = False) -> dict[str, str]:
        files = {f"{self.package}/__init__.py": ""}
        for module in dict.fromkeys(function.module for function in self.functions):
            files[f"{self.package}/{module}.py"] = self._module(module, is_mended)
        return files

    def code(self, function: Function, *, is_mended: bool = False) -> list[str]:
        """The lines of its body that do the steps."""
        steps = [self._expression(step) for step in function.steps]
        if function.bug and not is_mended:
            steps = self._broken(function, steps)
        return [f"    xs = {step}" for step in steps]

    def value(self, function: Function, xs: tuple[int, ...], *, is_mended: bool) -> list[int]:
        return apply(self._flat(function, is_mended), xs)

    def tests(self) -> Iterator[Test]:
        for function in self.functions:
            yield from self.tests_of(function)

    def tests_of(self, function: Function) -> Iterator[Test]:
        drawn = random.Random(f"tests/{self.package}/{function.name}/{function.steps}")
        inputs = list(EDGES)
        while len(inputs) < NUM_INPUTS:
            inputs.append(tuple(drawn.randint(-12, 12) for _ in range(drawn.randint(1, 9))))
        for xs in inputs:
            right = self.value(function, xs, is_mended=True)
            yield Test(function, xs, right, right != self.value(function, xs, is_mended=False))

    def symptom(self) -> Test:
        """The shortest input that shows the bug in the function that has it."""
        shown = [test for test in self.tests_of(self.buggy) if test.shows_bug]
        return min(shown, key=lambda test: (len(test.xs), test.xs))

    # -- internals ---------------------------------------------------------------

    def _by_name(self, step: str) -> Function:
        return next(f for f in self.functions if f"{f.name}()" == step)

    def _expression(self, step: str) -> str:
        return step.replace("()", "(xs)") if step.endswith("()") else OPERATIONS[step].expression

    def _broken(self, function: Function, steps: list[str]) -> list[str]:
        place = function.place
        if function.bug == "mistake":
            return [
                OPERATIONS[function.steps[k]].mistake if k == place else step
                for k, step in enumerate(steps)
            ]
        if function.bug == "missing":
            return steps[:place] + steps[place + 1 :]
        return [*steps[:place], steps[place + 1], steps[place], *steps[place + 2 :]]

    def _flat(self, function: Function, is_mended: bool) -> list[str]:
        """Expressions of operations, calls written out."""
        groups = [
            self._flat(self._by_name(step), is_mended)
            if step.endswith("()")
            else [OPERATIONS[step].expression]
            for step in function.steps
        ]
        place = function.place
        if function.bug and not is_mended:
            if function.bug == "mistake":
                groups[place] = [OPERATIONS[function.steps[place]].mistake]
            elif function.bug == "missing":
                del groups[place]
            else:
                groups[place], groups[place + 1] = groups[place + 1], groups[place]
        return [one for group in groups for one in group]

    def _module(self, module: str, is_mended: bool) -> str:
        own = [function for function in self.functions if function.module == module]
        called = {step for function in own for step in function.steps if step.endswith("()")}
        others = sorted(
            (self._by_name(step).module, self._by_name(step).name)
            for step in called
            if self._by_name(step).module != module
        )
        lines = [f'"""Functions on {module}: lists of whole numbers in, lists out."""', ""]
        lines += [f"from {self.package}.{where} import {name}" for where, name in others]
        for function in own:
            said = "; then ".join(self._said(step) for step in function.steps)
            lines += ["", "", f"def {function.name}(xs):"]
            lines += [f'    """{said[0].upper()}{said[1:]}."""']
            lines += [*self.code(function, is_mended=is_mended), "    return xs"]
        return "\n".join(lines).replace("\n\n\n\n", "\n\n\n") + "\n"

    def _said(self, step: str) -> str:
        return f"do what {step[:-2]} does" if step.endswith("()") else OPERATIONS[step].phrase


def draw_repository(source: random.Random, shape: Shape, split: str) -> Repository:
    """A repository whose functions all belong to the split."""
    package = source.choice(PACKAGES)
    modules = source.sample(MODULES, shape.modules)
    names = source.sample(
        [f"{v}_{n}" for v in VERBS for n in NOUNS], shape.modules * shape.functions
    )
    functions: list[Function] = []
    for k, name in enumerate(names):
        steps = _steps(source, shape, split, functions)
        functions.append(Function(name, modules[k // shape.functions], steps))
    bugs = [(k, bug) for k, function in enumerate(functions) for bug in _bugs(function)]
    source.shuffle(bugs)
    for k, broken in bugs:
        made = Repository(package, (*functions[:k], broken, *functions[k + 1 :]))
        if sum(test.shows_bug for test in made.tests_of(broken)) >= MIN_SHOWN:
            return made
    return draw_repository(source, shape, split)


# -- internals ---------------------------------------------------------------


def _steps(
    source: random.Random, shape: Shape, split: str, before: list[Function]
) -> tuple[str, ...]:
    for _ in range(TRIES):
        steps = source.sample(sorted(OPERATIONS), shape.steps)
        if split_of("/".join(steps)) != split:
            continue
        if shape.calls and before and shape.steps > 1 and source.random() < 0.5:
            called = source.choice(before)
            steps[source.randrange(shape.steps)] = f"{called.name}()"
        return tuple(steps)
    raise AssertionError(f"no {shape.steps} steps of split {split}")


def _bugs(function: Function) -> list[Function]:
    """The function with each bug that it can have."""
    places = range(len(function.steps))
    mistakes = [k for k in places if getattr(OPERATIONS.get(function.steps[k]), "mistake", "")]
    missing = list(places) if len(function.steps) > 1 else []
    kinds = {"mistake": mistakes, "missing": missing, "order": list(places)[:-1]}
    return [replace(function, bug=kind, place=k) for kind, ks in kinds.items() for k in ks]
