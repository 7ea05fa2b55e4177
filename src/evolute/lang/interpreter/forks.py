"""What can be done with the branches of a fork?

    forks[i], len(forks), iteration; forks[i] += expr
    forks += expr | [expr, ...] | function of the index
    forks.join("gather_variable" | "concate_and_append")

Branches run at the same time. Gathering puts every variable that the parent lacks into it, as a
list by branch; a branch that never set it has None there. Where a branch failed, reading such a
list says which one and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from evolute.lang.backend import Made, Piece, Prompt, Text
from evolute.lang.interpreter.bridge import wait_on
from evolute.types import NotSupported, ProgramError

if TYPE_CHECKING:
    from evolute.lang.interpreter.state import ProgramState
    from evolute.lang.interpreter.stream import Stream

MODES = ("gather_variable", "concate_and_append")


class ForkGroup:
    """The states of one fork, in order."""

    def __init__(self, states: Sequence[ProgramState], parent: ProgramState) -> None:
        self._states, self._parent = list(states), parent

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self._states)

    def __getitem__(self, index: int) -> ProgramState:
        return self._states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        if self._states[index] is not state:  # forks[i] += expr ends here
            raise TypeError("a branch cannot be replaced; append to it.")

    def __iadd__(self, other: Any) -> ForkGroup:
        """One expression for all, a list with one for each, or a function of the index."""
        if isinstance(other, list | tuple):
            if len(other) != len(self):
                raise ValueError(
                    f"{len(other)} expressions for {len(self)} branches; give one for each."
                )
            each = list(other)
        elif callable(other):
            each = [other(index) for index in range(len(self))]
        else:
            each = [other] * len(self)
        for state, expr in zip(self._states, each):
            state += expr
        return self

    def join(self, mode: str = "gather_variable") -> None:
        """Wait for the branches. Raises NotSupported for another mode."""
        _check_mode(mode)
        streams = [state.stream for state in self._states]
        if all(stream.is_idle for stream in streams):
            self._join(mode)
        else:
            wait_on(self._parent.stream.loop, lambda: self.ajoin(mode))

    async def ajoin(self, mode: str = "gather_variable") -> None:
        _check_mode(mode)
        for state in self._states:
            await state.stream.sync()
        self._join(mode)

    # -- internals ---------------------------------------------------------------

    def _join(self, mode: str) -> None:
        streams = [state.stream for state in self._states]
        if mode == "gather_variable":
            gather(self._parent.stream, streams)
        else:
            append_all(self._parent.stream, streams)


def gather(parent: Stream, branches: Sequence[Stream]) -> None:
    names = dict.fromkeys(name for branch in branches for name in branch.variables.names())
    for name in names:
        if name in parent.variables:
            continue
        error = _failure(branches, name)
        if error is not None:
            parent.variables.assign_error(name, error)
            continue
        values = [
            branch.variables.peek(name) if branch.variables.is_set(name) else None
            for branch in branches
        ]
        metas = [branch.variables.meta.get(name) for branch in branches]
        parent.variables.assign(name, values, metas)


def append_all(parent: Stream, branches: Sequence[Stream]) -> None:
    """Each branch's own text behind the parent's, in order. Raises ProgramError for a branch that
    failed, NotSupported for one that began or ended a turn."""
    for index, branch in enumerate(branches):
        if branch.error is not None:
            raise ProgramError(f"branch {index}: {branch.error}") from branch.error
        if branch.now.role != parent.now.role or len(branch.now.messages) != len(
            parent.now.messages
        ):
            raise NotSupported(
                f"branch {index} has turns of its own, which cannot stand behind one another; "
                "join by 'gather_variable'."
            )
    for branch in branches:
        parent.become(parent.now.then(*behind(branch.now.prompt, branch.begins)))


def behind(prompt: Prompt, begin: int) -> list[Piece]:
    """The pieces from character `begin` on; what a model made stays whole or becomes text."""
    found: list[Piece] = []
    place = 0
    for piece in prompt.pieces:
        skipped = max(0, begin - place)
        place += len(piece.text)
        if skipped == 0 and isinstance(piece, Made):
            found.append(piece)
        elif skipped < len(piece.text):
            found.append(Text(piece.text[skipped:]))
    return found


# -- internals ---------------------------------------------------------------


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise NotSupported(f"there is no way to join called {mode!r}; use {' or '.join(MODES)}.")


def _failure(branches: Sequence[Stream], name: str) -> ProgramError | None:
    for index, branch in enumerate(branches):
        if branch.error is not None and not branch.variables.is_set(name):
            error = ProgramError(f"branch {index}: {branch.error}")
            error.__cause__ = branch.error
            return error
    return None
