"""What of a program is constant?

    trace(function, names, given) -> TracedProgram(nodes, prefix)
    common_prefix(texts) -> str

The function runs with a state that records what is appended and calls no model. Arguments that
are not given are placeholders: they can be appended, and end the trace where it looks into them,
as reading a variable does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from evolute.lang.expressions import (
    Argument,
    Constant,
    Expr,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    ValueUnknown,
    leaves,
    lift,
)


@dataclass(frozen=True, slots=True)
class TracedProgram:
    """`nodes` in the order of the program; `is_whole` when the trace came to its end."""

    nodes: tuple[Expr, ...]
    is_whole: bool

    @property
    def prefix(self) -> str:
        """The constant text that the program begins with, outside roles."""
        texts = []
        for node in self.nodes:
            if isinstance(node, ScopeBegin | ScopeEnd):
                continue
            if not isinstance(node, Constant):
                break
            texts.append(node.text)
        return "".join(texts)


def trace(
    function: Callable[..., Any], names: Iterable[str], given: Mapping[str, Any]
) -> TracedProgram:
    """An error of the program itself ends the trace: what came before it is still so."""
    state = _Recorder()
    arguments = {name: Argument(name) for name in names} | dict(given)
    try:
        result = function(state, **arguments)
        if hasattr(result, "send"):  # an async program
            _run_through(result)
    except Exception:
        return TracedProgram(tuple(state.nodes), is_whole=False)
    return TracedProgram(tuple(state.nodes), is_whole=True)


def common_prefix(texts: Sequence[str]) -> str:
    """What all of them begin with."""
    first, last = min(texts, default=""), max(texts, default="")  # in order, all lie between
    same = (a == b for a, b in zip(first, last))
    return first[: next((i for i, is_same in enumerate(same) if not is_same), len(first))]


# -- internals ---------------------------------------------------------------


class _Recorder:
    """A prompt state that only takes; whatever would have to wait ends the trace."""

    def __init__(self) -> None:
        self.nodes: list[Expr] = []

    def __iadd__(self, other: Any) -> _Recorder:
        self.nodes += leaves(lift(other))
        return self

    def system(self, expr: Any = None) -> Any:
        return self._role("system", expr)

    def user(self, expr: Any = None) -> Any:
        return self._role("user", expr)

    def assistant(self, expr: Any = None) -> Any:
        return self._role("assistant", expr)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        self.nodes.append(ScopeBegin(name))
        yield
        self.nodes.append(ScopeEnd(name))

    def __getitem__(self, name: str) -> NoReturn:
        self._stop()

    def __setitem__(self, name: str, value: Any) -> None:
        """A value of the program's own changes no prompt."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._stop

    def _role(self, role: str, expr: Any) -> Any:
        if expr is None:
            return self._turn(role)
        self.nodes += [RoleBegin(role), *leaves(lift(expr)), RoleEnd(role)]
        return None

    @contextmanager
    def _turn(self, role: str) -> Iterator[None]:
        self.nodes.append(RoleBegin(role))
        yield
        self.nodes.append(RoleEnd(role))

    def _stop(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueUnknown("a traced program has no results to look at.")


def _run_through(coroutine: Any) -> None:
    """An async program's first wait is on the world: there the trace ends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    finally:
        coroutine.close()
    raise ValueUnknown("a traced program waits on nothing.")
