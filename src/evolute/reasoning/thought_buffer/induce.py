"""What is new in a solution? Templates from programs that solved problems.

    abstract(example)                 one program: its literals that are the problem's become slots
    antiunify(examples)               several: what differs becomes slots, by place in the problem
    await distill_solution(...)       a template with a description, by rules or by a model

Anti-unification (Plotkin 1970) of syntax trees needs no model: where the programs of two problems
differ only in literals, and each literal stands at the same place of its problem ("numbers[:-1]",
"items", "has(descending)"), the place is how the slot is filled ever after. A single program is
ambiguous, so there only literals become slots that are long enough to be no accident.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evolute.lang.backend import TextBackend
from evolute.reasoning.asking import ask_json
from evolute.reasoning.thought_buffer.distill import Distilled, extract, places
from evolute.reasoning.thought_buffer.template import (
    ASKED,
    CATEGORIES,
    TYPES,
    Slot,
    ThoughtTemplate,
)
from evolute.types import Message, SamplingParams

SMALL = 2  # numbers up to here are taken for constants of a single program
MAX_EXAMPLES = 4
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "description": {"type": "string", "maxLength": 600},
        "category": {"enum": list(CATEGORIES)},
        "steps": {"type": "string", "maxLength": 1200},
    },
    "required": ["description", "category", "steps"],
    "additionalProperties": False,
}
ASK = (
    "Below are a problem and its right solution. Say what is general in them, for later problems "
    "of the same kind: the kind of problem in one or two sentences without this one's values, its "
    "category, and the steps of the solution.\n\n"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A problem's text, and a program or a text that solved it with this output."""

    text: str
    source: str
    output: str


def abstract(example: Example, distilled: Distilled | None = None) -> ThoughtTemplate | None:
    """A code template of one program, None where the program does not parse.

    Larger places are tried first: a whole list before its items. A literal that stands at no place
    stays as it is.
    """
    distilled = distilled or extract(example.text)
    tree = _parsed(example.source)
    if tree is None:
        return None
    known, slots = _by_literal(places(distilled)), dict[str, Slot]()
    lifted = _Lift(known, slots).visit(tree)
    return _template(distilled, ast.unparse(lifted), list(slots.values()), [example])


def antiunify(examples: Sequence[Example]) -> ThoughtTemplate | None:
    """A code template of programs that differ only in literals; None where they differ otherwise,
    or where a difference stands at no common place of the problems. At least two examples; equal
    programs give what `abstract` would make of them only if both problems agree.
    """
    trees = [_parsed(example.source) for example in examples]
    if len(trees) < 2 or any(tree is None for tree in trees):
        return None
    distilled = [extract(example.text) for example in examples]
    joint = _Joint([places(one) for one in distilled])
    body = joint.join([tree for tree in trees if tree is not None])
    if body is None or joint.has_failed:
        return None
    text = ast.unparse(ast.fix_missing_locations(body))
    return _template(distilled[0], text, list(joint.slots.values()), list(examples))


async def distill_solution(
    example: Example,
    distilled: Distilled,
    *,
    is_program: bool,
    model: TextBackend | None = None,
    sampling: SamplingParams | None = None,
) -> ThoughtTemplate | None:
    """A template of a solved problem. With a `model` it says description, category and steps;
    without one they are the rules' own. Raises BudgetSpent."""
    made = abstract(example, distilled) if is_program else _worked(example, distilled)
    if made is None or model is None:
        return made
    said = f"{ASK}Problem:\n{example.text}\n\nSolution:\n{example.source}\n\nAnswer: "
    messages: list[Message] = [{"role": "user", "content": said + example.output}]
    told = await ask_json(model, messages, SCHEMA, sampling or SamplingParams())
    if told is None:
        return made
    description = str(told.get("description", "")).strip() or made.description
    category = told.get("category") if told.get("category") in CATEGORIES else made.category
    made = replace(made, description=description, category=str(category), id="")
    steps = str(told.get("steps", "")).strip()
    return made if is_program or not steps else replace(made, body=steps, id="")


def examples_of(template: ThoughtTemplate) -> list[Example]:
    """The solved problems that a template was made from, as far as it remembers them."""
    kept = template.provenance.get("examples", ())
    return [Example(**example) for example in kept if isinstance(example, Mapping)]


# -- internals ---------------------------------------------------------------


def _template(
    distilled: Distilled, body: str, slots: list[Slot], examples: list[Example]
) -> ThoughtTemplate:
    kept = [{"text": e.text, "source": e.source, "output": e.output} for e in examples]
    return ThoughtTemplate(
        distilled.category,
        distilled.query or "a problem",
        "code",
        body or "pass",
        tuple(slots),
        tuple({"text": e.text, "output": e.output} for e in examples[-MAX_EXAMPLES:]),
        provenance={"source": "induced", "examples": kept[-MAX_EXAMPLES:]},
    )


def _worked(example: Example, distilled: Distilled) -> ThoughtTemplate:
    """Without a program: the solution itself as an example to follow."""
    body = f"An example of the kind.\n{example.text}\n{example.source}\nAnswer: {example.output}"
    provenance = {"source": "induced", "examples": []}
    return ThoughtTemplate(
        distilled.category, distilled.query or "a problem", "procedure", body, provenance=provenance
    )


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _literal(node: ast.AST) -> Any:
    """The value of a literal of a type that slots have; None for anything else."""
    if not isinstance(node, ast.Constant | ast.List | ast.UnaryOp):
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None
    return value if type(value).__name__ in TYPES else None


def _key(value: Any) -> str:
    return json.dumps([type(value).__name__, value], sort_keys=True, default=str)


def _by_literal(known: Mapping[str, Any]) -> dict[str, str]:
    """How a literal is found, for those that are no accident."""
    found: dict[str, str] = {}
    for how, value in known.items():
        if isinstance(value, bool) or value in ("", []):
            continue
        if isinstance(value, int | float) and abs(value) <= SMALL:
            continue
        if how == "keywords" or how.startswith("keywords["):
            continue
        found.setdefault(_key(value), how)
    return found


def _name(how: str, taken: Mapping[str, Slot]) -> str:
    """A name for a slot, from its place: the_numbers_last, the_items, the_is_descending."""
    if how.startswith("has(") or "==" in how:
        base = "is_" + (how[4:-1] if how.startswith("has(") else how.partition("==")[2])
    else:
        stem, _, rest = how.partition("[")
        part = {"": "", "-1]": "_last", ":-1]": "_but_last", "1:]": "_but_first"}.get(rest)
        base = stem + (part if part is not None else "_" + rest.strip("]-"))
    names, name, count = {slot.name for slot in taken.values()}, f"the_{base}", 2
    while name in names:
        name, count = f"the_{base}_{count}", count + 1
    return name


class _Lift(ast.NodeTransformer):
    """Literals of a single program that are the problem's, outermost first."""

    def __init__(self, known: Mapping[str, str], slots: dict[str, Slot]) -> None:
        self._known, self._slots = known, slots

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node  # the pieces of an f-string are no expressions

    def visit(self, node: ast.AST) -> Any:
        value = _literal(node)
        how = self._known.get(_key(value)) if value is not None else None
        if how is None:
            return super().visit(node)
        if how not in self._slots:
            name = _name(how, self._slots)
            self._slots[how] = Slot(name, type(value).__name__, how)
        return ast.copy_location(ast.Name(self._slots[how].name, ast.Load()), node)


class _Joint:
    """One tree of several, with a name where their literals differ."""

    def __init__(self, known: list[dict[str, Any]]) -> None:
        self._known = known
        self.slots: dict[str, Slot] = {}
        self.has_failed = False

    def join(self, nodes: Sequence[Any]) -> Any:
        first = nodes[0]
        values = [_literal(node) if isinstance(node, ast.AST) else None for node in nodes]
        if all(value is not None for value in values) and len(set(map(_key, values))) > 1:
            return self._slot(values)
        if not all(type(node) is type(first) for node in nodes):
            return self._fail(first)
        if isinstance(first, list):
            if len({len(node) for node in nodes}) > 1:
                return self._fail(first)
            return [self.join(items) for items in zip(*nodes)]
        if not isinstance(first, ast.AST):
            return first if all(node == first for node in nodes) else self._fail(first)
        fields = {name: [getattr(n, name, None) for n in nodes] for name in first._fields}
        return type(first)(**{name: self.join(values) for name, values in fields.items()})

    # -- internals ---------------------------------------------------------------

    def _fail(self, node: Any) -> Any:
        self.has_failed = True
        return node

    def _slot(self, values: list[Any]) -> Any:
        if len({type(value) for value in values}) > 1:
            return self._fail(ast.Constant(None))
        how = next((h for h in self._known[0] if self._is_at(h, values)), None)
        if how is None:
            self.has_failed = True
            how = ASKED
        if how not in self.slots:
            self.slots[how] = Slot(_name(how, self.slots), type(values[0]).__name__, how)
        return ast.Name(self.slots[how].name, ast.Load())

    def _is_at(self, how: str, values: list[Any]) -> bool:
        return all(
            how in known and _key(known[how]) == _key(value)
            for known, value in zip(self._known, values)
        )
