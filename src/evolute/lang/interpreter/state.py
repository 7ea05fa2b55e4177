"""What does a program see?

    s += expr; s["x"]; s["x"] = value; "x" in s; s.text(); s.messages(); s.error(); s.sync()
    s.system(...), s.user(...), s.assistant(...), s.var_scope(name)
    s.fork(n) -> ForkGroup; s.copy(); s.text_iter(var); s.text_async_iter(var)
    await s.aget(name); await s.async_sync(); async with s.afork(n) as forks

Appending never waits, reading waits. In a plain function it gives way to other programs; from
another thread it blocks that thread; in an async program the async forms are to be awaited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from evolute.lang.account import Account, Spent
from evolute.lang.expressions import RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, lift
from evolute.lang.interpreter.bridge import await_on, call_on, is_on, wait_on
from evolute.lang.interpreter.forks import ForkGroup
from evolute.lang.interpreter.stream import Stream
from evolute.lang.interpreter.variables import NotYet
from evolute.lang.speculation import SurplusCounts
from evolute.lang.tools import results_of
from evolute.types import Message, ProgramError

T = TypeVar("T")


class ProgramState:
    """One stream of a run, as its program and whoever reads its results see it."""

    def __init__(self, stream: Stream, account: Account) -> None:
        self.stream = stream
        self._account = account
        self._value: Any = None
        self._failure: BaseException | None = None

    # -- what is appended ----------------------------------------------------------

    def __iadd__(self, other: Any) -> ProgramState:
        expr = lift(other)
        if self.stream.run.is_over:
            raise ProgramError(f"{self.stream.run.name} has ended; nothing can be appended to it.")
        call_on(self.stream.loop, lambda: self.stream.submit(expr))
        return self

    def system(self, expr: Any = None) -> Any:
        return self._role("system", expr)

    def user(self, expr: Any = None) -> Any:
        return self._role("user", expr)

    def assistant(self, expr: Any = None) -> Any:
        return self._role("assistant", expr)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """All text appended within becomes variable `name`, too."""
        self += ScopeBegin(name)
        yield
        self += ScopeEnd(name)

    # -- what is read --------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set_var(name, value)

    def __contains__(self, name: object) -> bool:
        """Whether the variable was declared or set."""
        return name in self.stream.variables

    def get_var(self, name: str) -> Any:
        """Waits. Raises ProgramError naming the gen that failed, KeyError for no such variable."""
        stream, run = self.stream, self.stream.run
        if not run.is_over and not self._is_inside and name not in stream.variables:
            return wait_on(stream.loop, lambda: stream.read_result(name))
        try:
            return stream.peek(name)
        except NotYet:
            read = stream.read if self._is_inside else stream.read_result
            return wait_on(stream.loop, lambda: read(name))

    def set_var(self, name: str, value: Any) -> None:
        call_on(self.stream.loop, lambda: self.stream.variables.assign(name, value))

    def get_meta_info(self, name: str) -> Any:
        """SGLang's meta_info of the gen or select that set `name`; waits for it."""
        self.get_var(name)
        return self.stream.variables.meta.get(name)

    def text(self) -> str:
        """The whole prompt, answers included. Raises ProgramError when a gen failed."""
        self._checked()
        return self.stream.text

    def messages(self) -> list[Message]:
        """All turns in OpenAI's form. Raises ProgramError when a gen failed."""
        self._checked()
        return list(self.stream.now.messages)

    def error(self) -> BaseException | None:
        """What ended the program or this stream, None if nothing did. Waits."""
        self._settle()
        return self._failure or self.stream.error

    def sync(self) -> None:
        """Wait for all that was appended. Raises ProgramError when a gen failed."""
        self._checked()

    @property
    def ret_value(self) -> Any:
        """What the function returned. Raises what it raised."""
        if self._failure is not None:
            raise self._failure
        return self._value

    @property
    def spent(self) -> Spent:
        """What this program has cost so far, its forks included."""
        return self._account.spent

    @property
    def speculation(self) -> SurplusCounts:
        """What `num_api_spec_tokens` saved and wasted in this program."""
        return self.stream.run.speculation

    # -- tools ---------------------------------------------------------------------

    def call_tools(self, name: str, functions: Sequence[Callable[..., Any]]) -> list[str]:
        """Run what gen `name` called. Each result becomes a turn of role `tool`; what a model got
        wrong is told it as the result. Waits."""
        calls = (self.get_meta_info(name) or {}).get("tool_calls") or ()
        results = wait_on(self.stream.loop, lambda: results_of(calls, functions))
        return self._told(results)

    async def acall_tools(self, name: str, functions: Sequence[Callable[..., Any]]) -> list[str]:
        """`call_tools` for async programs."""
        await self.aget(name)
        calls = (self.stream.variables.meta.get(name) or {}).get("tool_calls") or ()
        return self._told(await results_of(calls, functions))

    # -- streaming -----------------------------------------------------------------

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """New text as it comes: of the whole prompt, or of one variable. Without stream=True it
        comes in one piece. Raises ProgramError where the program failed."""
        pieces = self._pieces(var_name, is_inside=self._is_inside)
        while True:
            try:
                text, _ = wait_on(self.stream.loop, lambda: anext(pieces))
            except StopAsyncIteration:
                return
            yield text

    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """The same from any event loop; with `return_meta_data` (text, meta) pairs."""
        pieces = self._pieces(var_name, is_inside=self._is_inside, with_meta=return_meta_data)
        while True:
            try:
                text, meta = await await_on(self.stream.loop, lambda: anext(pieces))
            except StopAsyncIteration:
                return
            yield (text, meta) if return_meta_data else text

    # -- branches ------------------------------------------------------------------

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> ForkGroup:
        """`size` states that go on from here at the same time. Waits for this one's prompt."""
        del position_ids_offset  # positions are the text's own
        if self._is_inside and self.stream.can_branch(size):
            return self._group(self.stream.branches(size))
        return self._group(wait_on(self.stream.loop, lambda: self.stream.fork(size)))

    @contextmanager
    def copy(self, size: int = 1, position_ids_offset: Any = None) -> Iterator[ProgramState]:
        """A state for side questions; this one's prompt stays as it is."""
        group = self.fork(size, position_ids_offset)
        try:
            yield group[0]
        finally:
            group.join()

    # -- for async programs ----------------------------------------------------------

    async def aget(self, name: str) -> Any:
        return await await_on(self.stream.loop, lambda: self.stream.read(name))

    async def async_sync(self) -> None:
        await await_on(self.stream.loop, self.stream.sync)
        self.stream.check()

    @asynccontextmanager
    async def afork(self, size: int = 1) -> AsyncIterator[ForkGroup]:
        """Joined at the end: what the branches set is gathered."""
        group = self._group(await self.stream.fork(size))
        yield group
        await group.ajoin()

    # -- for who runs it -------------------------------------------------------------

    def ended(self, value: Any, failure: BaseException | None) -> None:
        self._value, self._failure = value, failure

    # -- internals ---------------------------------------------------------------

    def _group(self, streams: list[Stream]) -> ForkGroup:
        return ForkGroup([ProgramState(one, self._account) for one in streams], self)

    def _told(self, results: list[str]) -> list[str]:
        for result in results:
            self._role("tool", result)
        return results

    def _role(self, role: str, expr: Any) -> Any:
        if expr is None:
            return self._turn(role)
        self += RoleBegin(role) + lift(expr) + RoleEnd(role)
        return None

    @contextmanager
    def _turn(self, role: str) -> Iterator[None]:
        self += RoleBegin(role)
        yield
        self += RoleEnd(role)

    @property
    def _is_inside(self) -> bool:
        """Whether the program itself asks, and not who reads its results."""
        return is_on(self.stream.loop) and not self.stream.run.is_over

    def _settle(self) -> None:
        """Inside until this stream is idle, outside until the program is over."""
        run, stream = self.stream.run, self.stream
        if run.is_over or (self._is_inside and stream.is_idle):
            return
        wait_on(stream.loop, stream.sync if self._is_inside else run.until_over)

    def _checked(self) -> None:
        self._settle()
        self.stream.check()
        if self._failure is not None and not self._is_inside:
            raise self._failure

    async def _pieces(
        self, name: str | None, *, is_inside: bool, with_meta: bool = False
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        stream = self.stream
        if not stream.run.is_streaming:
            await (stream.sync() if is_inside else stream.run.until_over())
            if name is None:
                yield stream.text, {}
            else:
                read = stream.read if is_inside else stream.read_result
                yield await read(name), stream.variables.meta.get(name) or {}
                return
        elif name is None:
            async for text in stream.growth.texts(lambda: stream.run.is_over):
                yield text, {}
        else:
            ended = stream.growth.chunks(name, lambda: stream.run.is_over, with_meta=with_meta)
            async for chunk in ended:
                yield chunk
            await (stream.read if is_inside else stream.read_result)(name)
            return
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.stream.run.is_over:
            self.stream.check()
            if self._failure is not None:
                raise self._failure
