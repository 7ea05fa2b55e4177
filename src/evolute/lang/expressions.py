"""What can be appended to a prompt state?

    lift(value) -> Expr         texts and lists of expressions become expressions
    a + b                       one after the other
    origin_of_caller()          where a program wrote it
    leaves(expr)                the expressions it consists of, in order
    declared(expr)              names of the variables that it will set

Expressions are data: they say what to do and do nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

PACKAGE = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True, slots=True)
class Origin:
    """A line of a program."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


class Expr:
    """Base of all: `+` makes a sequence, texts are lifted on either side."""

    __slots__ = ()

    def __add__(self, other: Any) -> Expr:
        return Many((*_items(self), *_items(lift(other))))

    def __radd__(self, other: Any) -> Expr:
        return Many((*_items(lift(other)), *_items(self)))


class Source(Protocol):
    """Whoever has variables to wait for."""

    async def read(self, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Constant(Expr):
    text: str


@dataclass(frozen=True, slots=True)
class GenOptions:
    """What one gen sets itself, with SGLang's names; None: the run's setting holds."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    stop_regex: str | Sequence[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    ignore_eos: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    dtype: type | str | None = None
    regex: str | None = None
    json_schema: str | None = None
    tools: tuple[Mapping[str, Any] | Callable[..., Any], ...] = ()
    tool_choice: str = "auto"


@dataclass(frozen=True, slots=True)
class Gen(Expr):
    """Text of the model's. Without a name it is appended and kept nowhere else."""

    name: str | None
    options: GenOptions = field(default_factory=GenOptions)
    origin: Origin = field(default=Origin("", 0), compare=False)

    def __str__(self) -> str:
        return f"gen {self.name!r} ({self.origin})" if self.name else f"gen ({self.origin})"


@dataclass(frozen=True, slots=True)
class Select(Expr):
    """The most probable of some texts. `method` is one of `evolute.lang.choices`."""

    name: str | None
    choices: tuple[str, ...]
    method: Any = None  # None: token_length_normalized
    temperature: float = 0.0
    origin: Origin = field(default=Origin("", 0), compare=False)

    def __str__(self) -> str:
        return f"select {self.name!r} ({self.origin})" if self.name else f"select ({self.origin})"


@dataclass(frozen=True, slots=True)
class RoleBegin(Expr):
    role: str


@dataclass(frozen=True, slots=True)
class RoleEnd(Expr):
    role: str


@dataclass(frozen=True, slots=True)
class ScopeBegin(Expr):
    """From here to its end all text belongs to variable `name` too."""

    name: str


@dataclass(frozen=True, slots=True)
class ScopeEnd(Expr):
    name: str


@dataclass(frozen=True, slots=True)
class VariableOf(Expr):
    """The text of another stream's variable, waited for when its turn comes."""

    source: Source
    name: str


@dataclass(frozen=True, slots=True)
class Thinking(Expr):
    """The gens within are split into what was thought and what was answered."""

    inner: Expr
    model_type: str | None = None


@dataclass(frozen=True, slots=True)
class Argument(Expr):
    """What a program will be given, while it is traced: it can be appended, not looked into.

    Raises ValueUnknown wherever its value would be needed.
    """

    name: str

    def _unknown(self, *_: Any, **__: Any) -> Any:
        raise ValueUnknown(f"the value of {self.name!r} is not known while a program is traced.")

    __str__ = __bool__ = __len__ = __iter__ = __getitem__ = __int__ = __float__ = _unknown
    __format__ = __contains__ = __call__ = __lt__ = __gt__ = _unknown

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._unknown()


class ValueUnknown(Exception):
    """A traced program looked into a value that only a run has."""


@dataclass(frozen=True, slots=True)
class Many(Expr):
    items: tuple[Expr, ...] = ()


def lift(value: Any) -> Expr:
    """Raises TypeError for what cannot be appended, None above all."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Constant(value)
    if isinstance(value, list | tuple):
        return Many(tuple(item for one in value for item in _items(lift(one))))
    raise TypeError(
        f"{value!r} of type {type(value).__name__} cannot be appended to a prompt; append a text, "
        "gen(...), select(...) or a role. Numbers need str()."
    )


def leaves(expr: Expr) -> Iterator[Expr]:
    """`expr` without its nesting; a Thinking stays whole."""
    for item in _items(expr):
        if isinstance(item, Many):
            yield from leaves(item)
        else:
            yield item


def declared(expr: Expr) -> Iterator[str]:
    """Variables by the order in which they will be set."""
    for item in leaves(expr):
        if isinstance(item, Gen | Select | ScopeBegin) and item.name is not None:
            yield item.name
        elif isinstance(item, Thinking):
            for gen in leaves(item.inner):
                yield from declared(gen)
                if isinstance(gen, Gen) and gen.name is not None:
                    yield reasoning_name(gen.name)


def reasoning_name(name: str) -> str:
    """The variable that holds what was thought before `name` was answered."""
    return f"{name}_reasoning_content"


def origin_of_caller() -> Origin:
    """The innermost line outside this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE + os.sep):
        frame = frame.f_back
    return Origin(frame.f_code.co_filename, frame.f_lineno)


def options_from(values: Mapping[str, Any]) -> GenOptions:
    """Raises TypeError naming an option that gen does not have."""
    known = {f.name for f in fields(GenOptions)}
    for name in values:
        if name not in known:
            raise TypeError(f"gen has no option {name!r}; it has {', '.join(sorted(known))}.")
    return GenOptions(**values)


# -- internals ---------------------------------------------------------------


def _items(expr: Expr) -> tuple[Expr, ...]:
    return expr.items if isinstance(expr, Many) else (expr,)
