"""On which inputs are candidates compared?

    fuzzed(code, count, seed) -> list[Input]       without a model: mutations of the public inputs
    asked(text) -> list[Input]                     what a model proposed, one a line
    telling(inputs, outcomes) -> list[int]         the inputs that split candidates, most even first

Fuzzing is typed by example: values keep the types that public inputs, or annotations, show.
"""

from __future__ import annotations

import ast
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.envs.code.problem import CodeProblem
from evolute.envs.sandbox.values import encode
from evolute.reasoning.s_star.runs import FAILED, Input

MAX_PROPOSED = 40
BY_NAME: Mapping[str, Any] = {
    "int": 3, "float": 1.5, "str": "ab a", "bool": True, "list": [1, 2, 2], "List": [1, 2, 2],
    "List[int]": [3, 1, 2, 2], "list[int]": [3, 1, 2, 2], "List[str]": ["ab", "b", ""],
    "list[str]": ["ab", "b", ""], "List[float]": [1.5, -2.0, 1.5], "list[float]": [1.5, -2.0, 1.5],
    "dict": {"a": 1}, "Dict[str, int]": {"a": 1}, "dict[str, int]": {"a": 1},
}  # fmt: skip


def fuzzed(code: CodeProblem, count: int, seed: int) -> list[Input]:
    """Different inputs; fewer, or none, where types cannot be told."""
    seeds: list[Input] = [test.arguments for test in code.public] or annotated(code.starter)
    if not seeds:
        return []
    source = random.Random(seed)
    found: dict[str, Input] = {}
    for _ in range(count * 4):
        if len(found) >= count:
            break
        one = tuple(_changed(value, source) for value in source.choice(seeds))
        found.setdefault(encode(list(one)), one)
    return list(found.values())


def annotated(starter: str) -> list[Input]:
    """An input by the annotations of the last function; [] where one is unknown."""
    try:
        body = ast.parse(starter + "\n    pass\n").body
    except (SyntaxError, ValueError):
        return []
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    if not functions:
        return []
    names = [
        ast.unparse(one.annotation) if one.annotation else "" for one in functions[-1].args.args
    ]
    return [tuple(BY_NAME[name] for name in names)] if all(n in BY_NAME for n in names) else []


def asked(text: str) -> list[Input]:
    """Tuples among the lines of an answer. Anything else is passed over."""
    found: dict[str, Input] = {}
    for value in literals(text):
        if isinstance(value, list):
            value = tuple(value)
        one = value if isinstance(value, tuple) else (value,)
        if one:
            found.setdefault(encode(list(one)), one)
    return list(found.values())[:MAX_PROPOSED]


def literals(text: str) -> list[Any]:
    """Python literals, one a line; bullets, numbers and fences around them are dropped."""
    values: list[Any] = []
    for line in text.splitlines():
        plain = line.strip().strip("`").lstrip("-* ").strip()
        head, dot, rest = plain.partition(". ")
        plain = rest if dot and head.isdigit() else plain
        try:
            values.append(ast.literal_eval(plain))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return values


def telling(outcomes: Sequence[Sequence[str]], num_inputs: int) -> list[int]:
    """Places of inputs whose outcomes differ, the most even split first.

    `outcomes` has a row a candidate. An input on which more than half of them fail is no fair one
    and is dropped. Source: the entropy of the partition.
    """
    scored = []
    for place in range(num_inputs):
        column = [row[place] for row in outcomes]
        if 2 * column.count(FAILED) > len(column):
            continue
        entropy = _entropy(column)
        if entropy > 0:
            scored.append((-entropy, place))
    return [place for _, place in sorted(scored)]


# -- internals ---------------------------------------------------------------


def _entropy(column: Sequence[str]) -> float:
    total = len(column)
    return -sum(n / total * math.log(n / total) for n in Counter(column).values()) if total else 0.0


def _changed(value: Any, source: random.Random) -> Any:
    """A value of the same type, near the given one or at an edge."""
    if isinstance(value, bool):
        return source.random() < 0.5
    if isinstance(value, int):
        spread = max(10, 2 * abs(value))
        return source.choice([value, 0, 1, -1, -value, value + 1, source.randint(-spread, spread)])
    if isinstance(value, float):
        return source.choice([value, 0.0, -value, value / 2, value + 1, source.uniform(-10, 10)])
    if isinstance(value, str):
        return _changed_text(value, source)
    if isinstance(value, list | tuple):
        return type(value)(_changed_items(list(value), source))
    if isinstance(value, set | frozenset):
        return type(value)(_changed_items(sorted(value, key=repr), source))
    if isinstance(value, dict):
        keys = [key for key in value if source.random() < 0.8]
        return {key: _changed(value[key], source) for key in keys}
    return value


def _changed_text(value: str, source: random.Random) -> str:
    if all(part.lstrip("-").isdigit() for part in value.split()) and value.strip():
        lines = value.split("\n")  # numbers of a stdin
        return "\n".join(
            " ".join(str(_changed(int(word), source)) for word in line.split()) for line in lines
        )
    letters = sorted(set(value)) or list("ab ")
    return "".join(_changed_items(list(value), source, letters))


def _changed_items(items: list[Any], source: random.Random, pool: Sequence[Any] = ()) -> list[Any]:
    """Longer, shorter, shuffled, repeated, or with some of them changed."""
    if not items:
        return list(source.choices(pool, k=source.randint(0, 3))) if pool else []
    what = source.randrange(6)
    if what == 0:
        return items[: source.randint(0, len(items))]
    if what == 1:
        return items + source.choices(items, k=source.randint(1, len(items)))
    if what == 2:
        return source.sample(items, len(items))
    if pool:
        return [source.choice(pool) if source.random() < 0.5 else item for item in items]
    size = source.randint(1, len(items) + 3) if what > 3 else len(items)
    return [_changed(source.choice(items), source) for _ in range(size)]
