"""How does one stream of a program run?

    stream.submit(expr)         take an expression; never waits
    await stream.read(name)     a variable's value or its gen's error
    await stream.sync()         until all that was submitted is done
    await stream.fork(n)        n streams that go on from here
    stream.cancel()             give up what is queued and in flight

Texts are appended at once; a task exists only while something waits on the model. What a stream
cannot do ends that stream alone: its open variables fail with the error, which names the gen and
its line, and later expressions are read over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evolute.lang.backend import Text
from evolute.lang.expressions import (
    Constant,
    Expr,
    Gen,
    ScopeBegin,
    ScopeEnd,
    Select,
    declared,
    leaves,
)
from evolute.lang.gens import RunSettings
from evolute.lang.interpreter import steps
from evolute.lang.interpreter.growth import Growth
from evolute.lang.interpreter.prompts import Conversation, to_send
from evolute.lang.interpreter.variables import NotYet, Variables
from evolute.lang.interpreter.whole import WholeTurn
from evolute.lang.metered import Metered
from evolute.lang.settings import global_config
from evolute.lang.speculation import Surplus, SurplusCounts
from evolute.types import ProgramError

if TYPE_CHECKING:
    from evolute.lang.interpreter.gate import Gate


@dataclass(slots=True, eq=False)
class Run:
    """What the streams of one program share."""

    backend: Metered
    settings: RunSettings
    name: str = "program"
    is_streaming: bool = False
    gate: Gate | None = None
    num_api_spec_tokens: int | None = None  # None: a call writes one gen and no more
    speculation: SurplusCounts = field(default_factory=SurplusCounts)
    streams: list[Stream] = field(default_factory=list)
    has_begun: bool = False  # its function has run up to its first wait
    is_over: bool = False  # its function has ended and nothing is left to do
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_busy(self) -> bool:
        return any(not stream.is_idle for stream in self.streams)

    def surplus(self) -> Surplus | None:
        """What a new stream keeps of calls that wrote more than their gen."""
        if self.num_api_spec_tokens is None or not self.backend.capabilities.completes:
            return None
        tokenizer = getattr(self.backend.backend, "tokenizer", None)
        return Surplus(self.num_api_spec_tokens, self.speculation, tokenizer)

    async def sync(self) -> None:
        """Until no stream has anything to do, those that are made meanwhile included."""
        for stream in self.streams:  # grows while it is walked
            await stream.sync()

    def cancel(self) -> None:
        for stream in self.streams:
            stream.cancel()

    def end(self) -> None:
        self.is_over = True
        self._over.set()
        for stream in self.streams:
            stream.end()

    async def until_over(self) -> None:
        await self._over.wait()


class Stream:
    """One prompt that grows. Belongs to the event loop that made it."""

    def __init__(self, run: Run, origin: Stream | None = None, index: int = 0) -> None:
        self.run, self.loop = run, asyncio.get_running_loop()
        self.variables = Variables(self.loop)
        self.growth = Growth(is_kept=run.is_streaming)
        self.now = Conversation()
        self.error: ProgramError | None = None
        self.begins = 0  # characters that it has from where it was forked
        self.path: tuple[int, ...] = ()
        self.num_drawn = 0  # gens and selects so far, for their seeds
        self.surplus = run.surplus()
        self.turn: WholeTurn | None = None  # begun, and to be written by one call
        self._scopes: dict[str, int] = {}
        self._queue: deque[Expr] = deque()
        self._task: asyncio.Task[None] | None = None
        if origin is not None:
            self.now, self._scopes = origin.now, dict(origin._scopes)
            self.path = (*origin.path, index)
            self.begins = len(self.now.prompt.text)
            origin.variables.copy_to(self.variables)
        run.streams.append(self)

    @property
    def is_idle(self) -> bool:
        return self._task is None

    @property
    def text(self) -> str:
        return self.now.prompt.text

    def submit(self, expr: Expr) -> None:
        for name in declared(expr):
            self.variables.declare(name)
        if self.error is not None:
            self.variables.fail(self.error)
            return
        self._queue.extend(leaves(expr))
        if self._task is None:
            self._go_on()

    async def read(self, name: str) -> Any:
        """For the program itself. Raises KeyError for a variable that nobody will set, ProgramError
        for one that failed or whose scope has not ended: a read never waits on nothing."""
        if name not in self.variables:
            await self.sync()
            if name not in self.variables:
                raise self.unset(name)
        future = self.variables.future(name)
        while not future.done():
            if self._task is None:
                raise ProgramError(f"{name!r} is read within its own scope or turn; end it before.")
            await asyncio.wait({future, self._task}, return_when=asyncio.FIRST_COMPLETED)
        return self.variables.peek(name)

    async def read_result(self, name: str) -> Any:
        """For others: the program may still come to it, until it is over."""
        over = asyncio.ensure_future(self.run.until_over())
        try:
            while name not in self.variables and not over.done():
                await asyncio.wait({over})
            if name not in self.variables:
                raise self.unset(name)
            future = self.variables.future(name)
            await asyncio.wait({future, over}, return_when=asyncio.FIRST_COMPLETED)
            return self.variables.peek(name)
        finally:
            over.cancel()

    def peek(self, name: str) -> Any:
        """Raises NotYet where `read` would wait."""
        if name not in self.variables:
            if not self.is_idle:
                raise NotYet(name)
            raise self.unset(name)
        return self.variables.peek(name)

    def unset(self, name: str) -> Exception:
        if self.error is not None:
            error = ProgramError(*self.error.args)
            error.__cause__ = self.error.__cause__
            return error
        return KeyError(name)

    async def sync(self) -> None:
        while self._task is not None:
            await asyncio.wait({self._task})

    async def fork(self, count: int) -> list[Stream]:
        """The prompt is computed once before several go on from it."""
        await self.sync()
        if self._is_hinted(count) and self.error is None:
            await steps.hint(self.run, to_send(self.now, self.run.backend.capabilities))
        return self.branches(count)

    def can_branch(self, count: int) -> bool:
        """Whether `branches` can be had without waiting."""
        return self.is_idle and not self._is_hinted(count)

    def branches(self, count: int) -> list[Stream]:
        """Raises ProgramError when this stream has failed."""
        self.check()
        if self.turn is not None:
            raise ProgramError("a turn that one call writes cannot be forked; end it before.")
        return [Stream(self.run, self, index) for index in range(count)]

    def check(self) -> None:
        if self.error is not None:
            raise ProgramError(*self.error.args) from self.error.__cause__

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        """The program is over: what is open now will never be set."""
        if self._task is None:
            self.variables.fail(ProgramError(f"{self.run.name} ended before this was set."))
        if self.surplus is not None:
            self.surplus.close()
        self.growth.wake()

    # -- for the steps -------------------------------------------------------------

    def append_text(self, text: str) -> None:
        if self.surplus is not None:
            self.surplus.constant(text)
        self.now = self.now.then(Text(text))
        self.growth.add(text)

    def follow(self, now: Conversation) -> None:
        """The conversation after a turn began or ended: what its template put there is text."""
        if self.surplus is not None and now.prompt.text.startswith(self.text):
            self.surplus.constant(now.prompt.text[len(self.text) :])
        self.become(now)

    def become(self, now: Conversation, *, is_shown: bool = False) -> None:
        """The conversation as it is now; `is_shown` when readers have what is new."""
        earlier, self.now = self.now.prompt, now
        if is_shown or not self.growth.is_kept:
            return
        text = now.prompt.text
        known = earlier.text
        self.growth.add(text[len(known) :] if text.startswith(known) else "")

    def is_instant(self, expr: Expr) -> bool:
        """Whether it needs no waiting."""
        return isinstance(expr, Constant | ScopeBegin | ScopeEnd)

    def do_at_once(self, expr: Expr) -> None:
        if self.turn is not None:
            self.turn.parts.append(expr)
        elif isinstance(expr, Constant):
            self.append_text(expr.text)
        elif isinstance(expr, ScopeBegin):
            self._scopes[expr.name] = len(self.text)
        elif isinstance(expr, ScopeEnd):
            self.variables.set(expr.name, self.text[self._scopes.pop(expr.name, 0) :])

    # -- internals ---------------------------------------------------------------

    def _is_hinted(self, count: int) -> bool:
        can = self.run.backend.capabilities.hints and global_config.enable_fork_hints
        return can and count > 1 and bool(self.now.prompt.pieces)

    def _go_on(self) -> None:
        """Do what needs no waiting here and now; the rest is a task's."""
        while self._queue and self.is_instant(self._queue[0]):
            self.do_at_once(self._queue.popleft())
        if self._queue:
            self._task = self.loop.create_task(self._work())
            self._task.add_done_callback(self._worked)

    def _worked(self, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never comes to its own end."""
        if self._task is task:
            self._task = None
            self._fail(None, asyncio.CancelledError())
            self.growth.wake()

    async def _work(self) -> None:
        expr: Expr | None = None
        try:
            while self._queue:
                expr = self._queue.popleft()
                if self.is_instant(expr):
                    self.do_at_once(expr)
                else:
                    await steps.execute(self, expr)
        except asyncio.CancelledError as error:
            self._fail(expr, error)
            raise
        except Exception as error:
            self._fail(expr, error)
        finally:
            self._task = None
            self.growth.wake()

    def _fail(self, expr: Expr | None, error: BaseException) -> None:
        where = self.run.name if expr is None else type(expr).__name__
        if isinstance(expr, Gen | Select):
            where = str(expr)
        if isinstance(error, ProgramError):
            self.error = error
        else:
            why = "it was cancelled" if isinstance(error, asyncio.CancelledError) else str(error)
            self.error = ProgramError(f"{where}: {why or type(error).__name__}")
            self.error.__cause__ = error
        self._queue.clear()
        self.variables.fail(self.error)
