"""How are programs run?

    Program(function)           what @function makes
    .run, .arun                 one program -> ProgramState
    .run_batch, .arun_batch     many at once -> list of states, in the order of their arguments
    .bind(**kw)                 some arguments given
    .trace(**kw), .cache(b)     what of it is constant; compute that beforehand

The plain forms wait for the async ones on a loop of their own. A program that fails in a batch is
told on its own state, and the others go on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from evolute.lang.account import Account
from evolute.lang.backend import Text, TextBackend
from evolute.lang.endpoints import as_text_backend
from evolute.lang.expressions import Constant, Expr, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd
from evolute.lang.gens import RUN_NAMES, RunSettings
from evolute.lang.interpreter.bridge import blocking, drive
from evolute.lang.interpreter.gate import Gate
from evolute.lang.interpreter.prompts import Conversation, to_send, turn_begin, turn_end
from evolute.lang.interpreter.state import ProgramState
from evolute.lang.interpreter.stream import Run, Stream
from evolute.lang.metered import Metered
from evolute.lang.settings import global_config
from evolute.lang.tracing import TracedProgram, trace
from evolute.telemetry import progress
from evolute.types import Backend, ConfigError, NotSupported

CHUNK = 200  # programs of a generator_style batch that run at once
ROLE = "program"
AnyBackend = TextBackend | Backend


class Program:
    """A function whose first parameter is `s`; `def` or `async def`.

    Keyword arguments of a run that the function has as parameters are given to it; others are
    settings for all its gens, with SGLang's names, and `seed`.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        num_api_spec_tokens: int | None = None,
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        self.func, self.num_api_spec_tokens = func, num_api_spec_tokens
        self.bind_arguments = dict(bound or {})
        parameters = list(inspect.signature(func).parameters.values())
        if not parameters or parameters[0].name != "s":
            raise ConfigError(f"the first parameter of {func.__name__!r} must be called s.")
        self._parameters = parameters[1:]
        self.name = func.__name__
        self.__doc__, self.__name__ = func.__doc__, func.__name__

    @property
    def arg_names(self) -> list[str]:
        """Parameters that a run has to give or may give."""
        return [p.name for p in self._parameters if p.name not in self.bind_arguments]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`run`; with a state as first argument the function itself, within another program."""
        if args and isinstance(args[0], ProgramState):
            return self.func(*args, **{**self.bind_arguments, **kwargs})
        return self.run(*args, **kwargs)

    def run(
        self,
        *args: Any,
        backend: AnyBackend | None = None,
        stream: bool = False,
        use_thread: bool = True,
        account: Account | None = None,
        **options: Any,
    ) -> ProgramState:
        """Wait for the program, or with `stream` return at once. Raises what its function raises;
        a gen's failure is raised where its value is read."""
        return blocking(
            self.arun(*args, backend=backend, stream=stream, account=account, **options)
        )

    async def arun(
        self,
        *args: Any,
        backend: AnyBackend | None = None,
        stream: bool = False,
        use_thread: bool = True,
        account: Account | None = None,
        **options: Any,
    ) -> ProgramState:
        """`run` on the running event loop. Cancelling aborts what is in flight."""
        settings, given = self._sorted_out(args, options)
        run = self._begin(text_backend_of(backend), settings, account, is_streaming=stream)
        state = _state(run)
        work = self._work(run, state, given)
        if stream:
            _keep(asyncio.get_running_loop().create_task(_quiet(work)))
        else:
            await work
        return state

    def run_batch(
        self,
        batch_kwargs: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        generator_style: bool = False,
        **options: Any,
    ) -> list[ProgramState] | Iterator[ProgramState]:
        """`arun_batch`; with `generator_style` states as they are done, in order, 200 at a time."""
        if generator_style:
            return self._chunks(batch_kwargs, options)
        return blocking(self.arun_batch(batch_kwargs, **options))

    async def arun_batch(
        self,
        batch_kwargs: Sequence[Mapping[str, Any] | Sequence[Any]],
        *,
        backend: AnyBackend | None = None,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        account: Account | None = None,
        **options: Any,
    ) -> list[ProgramState]:
        """Each entry is one program's arguments: by name, or in order. `num_threads` is how many
        run at once, "auto": all. What their prompts share is computed once before them.

        Raises ConfigError for arguments that do not fit, before anything is sent.
        """
        limit = _limit(num_threads)
        jobs = [self._sorted_out(*_arguments(one, options)) for one in batch_kwargs]
        text_backend, gate = text_backend_of(backend), Gate(limit)
        runs = [self._begin(text_backend, settings, account, gate=gate) for settings, _ in jobs]
        states = [_state(run) for run in runs]
        pre_cache = global_config.enable_precache_with_tracing
        with _bar(self.name, len(jobs), progress_bar) as bar:
            async with asyncio.TaskGroup() as group:
                for run, state, (_, given) in zip(runs, states, jobs):
                    task = group.create_task(_quiet(self._work(run, state, given)))
                    if bar is not None:
                        task.add_done_callback(lambda _: bar.advance())
                group.create_task(gate.open(runs, pre_cache=pre_cache and len(runs) > 1))
        return states

    def bind(self, **kwargs: Any) -> Program:
        """The same program with some arguments given. Raises ConfigError for unknown names."""
        for name in kwargs:
            if name not in {p.name for p in self._parameters}:
                raise ConfigError(f"{self.name} has no parameter {name!r} to bind.")
        return Program(self.func, self.num_api_spec_tokens, {**self.bind_arguments, **kwargs})

    def trace(self, *, backend: AnyBackend | None = None, **kwargs: Any) -> TracedProgram:
        """What it appends, up to where it looks into a value; arguments left out stay open."""
        return trace(self.func, self.arg_names, {**self.bind_arguments, **kwargs})

    def cache(self, backend: AnyBackend | None = None) -> None:
        """Compute the constant beginning, so that later runs find it in the prefix cache."""
        blocking(_prepare(text_backend_of(backend), self.trace().nodes))

    # -- internals ---------------------------------------------------------------

    def _sorted_out(
        self, args: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[RunSettings, dict[str, Any]]:
        """The run's settings, and the function's arguments by name."""
        names = self.arg_names
        takes_any = any(p.kind is p.VAR_KEYWORD for p in self._parameters)
        settings = {n: v for n, v in options.items() if n in RUN_NAMES and n not in names}
        keywords = {n: v for n, v in options.items() if n not in settings}
        for name in keywords:
            if name not in names and not takes_any:
                raise ConfigError(
                    f"{self.name} has no parameter {name!r}, and no gen has such a setting. It "
                    f"has {', '.join(names) or 'none'}."
                )
        bound = inspect.Signature([p for p in self._parameters if p.name in names])
        try:
            given = bound.bind(*args, **keywords).arguments
        except TypeError as error:
            raise ConfigError(f"{self.name}: {error}; it has {', '.join(names)}.") from None
        return RunSettings(**settings), {**self.bind_arguments, **_flat(bound, given)}

    def _begin(
        self,
        backend: TextBackend,
        settings: RunSettings,
        account: Account | None,
        *,
        is_streaming: bool = False,
        gate: Gate | None = None,
    ) -> Run:
        whole = account or global_config.default_account
        own = whole.part(self.name) if whole else Account(name=self.name)
        if self.num_api_spec_tokens is not None:
            self._check_speculation(is_streaming=is_streaming)
        metered, most = Metered(backend, own, ROLE), self.num_api_spec_tokens
        return Run(metered, settings, self.name, is_streaming, gate, most)

    def _check_speculation(self, *, is_streaming: bool) -> None:
        if self.num_api_spec_tokens is not None and self.num_api_spec_tokens < 1:
            raise ConfigError(
                f"num_api_spec_tokens is {self.num_api_spec_tokens}; it must be at least 1."
            )
        if is_streaming:
            raise NotSupported(
                f"{self.name} has num_api_spec_tokens, whose gens are cut out of one answer when "
                "that is whole; run it without stream=True, or leave num_api_spec_tokens out."
            )

    async def _work(self, run: Run, state: ProgramState, given: Mapping[str, Any]) -> None:
        """The function and what it left to do. Raises what the function raises."""
        run.has_begun = True
        value, failure = None, None
        try:
            if inspect.iscoroutinefunction(self.func):
                value = await self.func(state, **given)
            else:
                value = await drive(self.func, state, **given)
            await run.sync()
        except BaseException as error:
            failure = error
            run.cancel()
            await run.sync()
            raise
        finally:
            state.ended(value, failure)
            if run.gate is not None:
                run.gate.leave(run)
            run.end()

    def _chunks(
        self, batch: Sequence[Mapping[str, Any] | Sequence[Any]], options: Mapping[str, Any]
    ) -> Iterator[ProgramState]:
        for first in range(0, len(batch), CHUNK):
            yield from blocking(self.arun_batch(batch[first : first + CHUNK], **options))


# -- internals ---------------------------------------------------------------

_TASKS: set[asyncio.Task[None]] = set()  # a task that nobody holds may be collected


def text_backend_of(backend: AnyBackend | None) -> TextBackend:
    """`backend`, or the default one. Raises ConfigError without either."""
    chosen = backend if backend is not None else global_config.default_backend
    if chosen is None:
        raise ConfigError(
            "no model to run on: give backend=, or call set_default_backend(...) before."
        )
    return as_text_backend(chosen)


def _state(run: Run) -> ProgramState:
    return ProgramState(Stream(run), run.backend.account)


async def _quiet(work: Coroutine[Any, Any, None]) -> None:
    """What the function raised is kept on its state."""
    try:
        await work
    except Exception:
        return


def _keep(task: asyncio.Task[None]) -> None:
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


def _arguments(
    one: Mapping[str, Any] | Sequence[Any], options: Mapping[str, Any]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """One entry of a batch, by name or in order, with the batch's settings."""
    if isinstance(one, Mapping):
        return (), {**options, **one}
    if isinstance(one, str):
        raise ConfigError(f"{one!r} is one text; each entry of a batch is a dict or a tuple.")
    return tuple(one), dict(options)


def _flat(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a `**kwargs` parameter took is given by its own names."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            raise ConfigError("a program cannot have *args; name its parameters.")
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def _limit(num_threads: int | str) -> int | None:
    if num_threads == "auto":
        return None
    if not isinstance(num_threads, int) or num_threads < 1:
        raise ConfigError(f"num_threads is {num_threads!r}; give 'auto' or 1 and more.")
    return num_threads


def _bar(name: str, count: int, is_wanted: bool) -> AbstractContextManager[Any]:
    return progress(name, count) if is_wanted else nullcontext(None)


async def _prepare(backend: TextBackend, nodes: Sequence[Expr]) -> None:
    """Up to the first node that a run decides, in the words of the model's chat template."""
    now = Conversation()
    for node in nodes:
        if isinstance(node, Constant):
            now = now.then(Text(node.text))
        elif isinstance(node, RoleBegin):
            now = await turn_begin(now, node.role, backend)
        elif isinstance(node, RoleEnd):
            now = await turn_end(now, node.role, backend)
        elif not isinstance(node, ScopeBegin | ScopeEnd):
            break
    if now.prompt.pieces and backend.capabilities.hints:
        await backend.prepare(to_send(now, backend.capabilities))
