"""What is remembered of a solved problem?

    ThoughtTemplate       what it is for, and a program with slots, steps, or a prompt
    Slot                  a name in the program, and where its value stands in a problem
    Stats                 how often it led to a right and to a wrong answer
    to_json, from_json    one line of an export

A code template is a Python program whose slots are names that it does not define; an instance of it
is the program behind one assignment for each slot, and what it prints is the answer. One with `...`
as a statement is a skeleton: a model has to complete it (Yang et al. 2024, arXiv 2406.04271, call
these the thought-templates of their meta-buffer).
"""

from __future__ import annotations

import ast
import hashlib
import json
import keyword
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from evolute.types import ConfigError

Kind = Literal["code", "procedure", "prompt"]
Category = Literal[
    "text comprehension",
    "creative language",
    "common sense",
    "mathematics",
    "programming",
    "scheduling",
]
KINDS, CATEGORIES = get_args(Kind), get_args(Category)
TYPES = ("bool", "int", "float", "str", "list")
ASKED, CHOSEN = "model", "choice"  # hows that ask: a typed value, one of the problem's literals


@dataclass(frozen=True, slots=True)
class Slot:
    """`how` is a place of `distill.places`, e.g. "numbers[:-1]"; "model": asked under a regex of
    the type; "choice": the most probable of the problem's own literals."""

    name: str
    type: str
    how: str


@dataclass(frozen=True, slots=True)
class Stats:
    """Outcomes that were checked."""

    success: int = 0
    failure: int = 0

    @property
    def uses(self) -> int:
        return self.success + self.failure

    @property
    def expectation(self) -> float:
        """Mean of the Beta posterior under a uniform prior: 0.5 without outcomes."""
        return (1 + self.success) / (2 + self.uses)


@dataclass(frozen=True, slots=True)
class ThoughtTemplate:
    """Raises ConfigError when made with an unknown kind or category, a bad slot, or code that is
    no Python. `tests` are problems with the right output; `id` is made from the content."""

    category: str
    description: str  # of the problem, in general words: what retrieval compares with
    kind: str
    body: str
    slots: tuple[Slot, ...] = ()
    tests: tuple[Mapping[str, Any], ...] = ()  # {"text": problem, "output": text}
    provenance: Mapping[str, Any] = field(default_factory=dict)  # source, examples; plain JSON
    stats: Stats = Stats()
    id: str = ""

    def __post_init__(self) -> None:
        _among("kind", self.kind, KINDS)
        _among("category", self.category, CATEGORIES)
        if not self.description.strip() or not self.body.strip():
            raise ConfigError("a thought template needs a description and a body; one is empty.")
        _check_slots(self.slots)
        if self.kind == "code":
            _parse(self.body)
        elif self.slots:
            raise ConfigError(f"a thought template of kind {self.kind} has no slots; drop them.")
        if not self.id:
            object.__setattr__(self, "id", self._content_id())

    @property
    def is_skeleton(self) -> bool:
        """Code that is not whole: some statement of it is `...`."""
        if self.kind != "code":
            return False
        nodes = ast.walk(_parse(self.body))
        bare = [node.value for node in nodes if isinstance(node, ast.Expr)]
        return any(isinstance(v, ast.Constant) and v.value is Ellipsis for v in bare)

    @property
    def is_constant(self) -> bool:
        """Whole code that reads nothing of the problem: it would answer all problems alike."""
        return self.kind == "code" and not self.is_skeleton and not self.slots

    def _content_id(self) -> str:
        slots = [asdict(slot) for slot in self.slots]
        content = json.dumps([self.kind, self.description, self.body, slots])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def to_json(template: ThoughtTemplate) -> str:
    """One line."""
    return json.dumps(asdict(template), ensure_ascii=False, sort_keys=True)


def from_json(text: str) -> ThoughtTemplate:
    """The template of a line that `to_json` wrote. Raises ConfigError for anything else."""
    try:
        values = json.loads(text)
        values["slots"] = tuple(Slot(**slot) for slot in values.get("slots", ()))
        values["tests"] = tuple(values.get("tests", ()))
        values["stats"] = Stats(**values.get("stats", {}))
        return ThoughtTemplate(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{text[:80]!r} is no thought template: {error}") from error


# -- internals ---------------------------------------------------------------


def _among(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{what} of a thought template is {value!r}; it is one of {known}.")


def _check_slots(slots: tuple[Slot, ...]) -> None:
    names = [slot.name for slot in slots]
    for slot in slots:
        if not slot.name.isidentifier() or keyword.iskeyword(slot.name):
            raise ConfigError(f"slot {slot.name!r} cannot be a name in Python; rename it.")
        _among(f"type of slot {slot.name!r}", slot.type, TYPES)
    if len(set(names)) < len(names):
        raise ConfigError(f"slots {names} name one twice; rename it.")


def _parse(body: str) -> ast.Module:
    try:
        return ast.parse(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"the code of a thought template is no Python: {error}") from error
