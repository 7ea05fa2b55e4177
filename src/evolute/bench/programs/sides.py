"""In which ways is a shape of programs run, so that the ways can be compared?

    with Sides(model, config, server="smollm2-135m") as sides:
        sides.run(side, shape, arguments) -> Ran(seconds, answers, share)

In process, on engines that are kept, their caches emptied before each run:

    ours       as it is
    fcfs       without looking for shared prefixes when choosing who is next
    no_hints   nothing is computed before forks and batches
    no_jump    tokens that a grammar forces are drawn one by one
    no_cache   no prefix cache
    one_call   nor more than one call at a time

On one server in a process of its own:

    http            the same programs by `RuntimeEndpoint`
    openai          written with the `openai` client, a pool of threads runs them
    openai_forked   and a second pool the branches of each
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from evolute.bench.load.local import ServerProcess, own_server
from evolute.bench.programs.plain import Api, run_plainly
from evolute.bench.programs.watch import Share, Watched, share_of_best
from evolute.engine import Engine, EngineConfig
from evolute.lang import RuntimeEndpoint, global_config
from evolute.lang.interpreter.program import AnyBackend
from evolute.lang.interpreter.state import ProgramState
from evolute.lang.shapes import SHAPES
from evolute.models import LoadedModel
from evolute.types import BackendError, ConfigError
from evolute.types.settings import nearest

IN_PROCESS = ("ours", "fcfs", "no_hints", "no_jump", "no_cache", "one_call")
OVER_HTTP = ("http", "openai", "openai_forked")
CHANGES: dict[str, dict[str, Any]] = {
    "fcfs": {"policy": "fcfs"},
    "no_jump": {"jump_forward": False},
    "one_call": {"max_running": 1},
}
WITHOUT_CACHE = ("no_cache", "one_call")
WITHOUT_HINTS = ("no_hints", *WITHOUT_CACHE)  # there they would be computed for nothing
SEED, TIMEOUT_S = 1, 600.0
Answers = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """`answers`: each program's variables. `share` is told in process only."""

    seconds: float
    answers: list[Answers]
    share: Share | None = None


class Sides:
    """Engines and a server, for the length of a bench. `model` by name where a server is wanted."""

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        *,
        server: str | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """`names`: only these ways, besides ours. Raises ConfigError for one that cannot be."""
        known = (*IN_PROCESS, *(OVER_HTTP if server is not None else ()))
        for name in names:
            if name not in known:
                raise ConfigError(f"no way {name!r} to run programs. {nearest(name, known)}")
        needed = {"ours", *names} | ({"http"} if set(names) & set(OVER_HTTP) else set())
        self.names = tuple(name for name in known if not names or name in needed)
        self._model, self._config, self._server_model = model, config, server
        self._stack = contextlib.ExitStack()
        self._engines: dict[bool, Engine] = {}
        self._server: ServerProcess | None = None
        self._endpoint: RuntimeEndpoint | None = None
        self._apis: dict[str, Api] = {}

    def __enter__(self) -> Sides:
        for cached in (True, False):
            config = dataclasses.replace(self._config, prefix_cache=cached)
            engine = Engine(self._model, config)
            self._engines[cached] = self._stack.enter_context(engine)
        if self._server_model is not None and set(self.names) & set(OVER_HTTP):
            self._start(self._server_model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, side: str, shape: str, arguments: Sequence[Mapping[str, Any]]) -> Ran:
        """Raises ProgramError for a program that failed."""
        if side in IN_PROCESS:
            return self._in_process(side, shape, arguments)
        assert self._endpoint is not None
        self._flush()
        if side == "http":
            return self._programs(shape, arguments, self._endpoint)
        started = time.perf_counter()
        answers = run_plainly(shape, self._apis[side], arguments)
        return Ran(time.perf_counter() - started, answers)

    # -- internals ---------------------------------------------------------------

    def _in_process(self, side: str, shape: str, arguments: Sequence[Mapping[str, Any]]) -> Ran:
        engine = self._engines[side not in WITHOUT_CACHE]
        changes = CHANGES.get(side, {})
        before = {name: getattr(engine.config, name) for name in changes}
        watched = Watched(engine)
        engine.apply_settings(**changes)
        engine.flush_cache()
        try:
            with _hints(is_on=side not in WITHOUT_HINTS):
                ran = self._programs(shape, arguments, watched)
        finally:
            engine.apply_settings(**before)
        return dataclasses.replace(ran, share=share_of_best(watched.asked))

    def _programs(
        self, shape: str, arguments: Sequence[Mapping[str, Any]], backend: AnyBackend
    ) -> Ran:
        program = SHAPES[shape].program
        started = time.perf_counter()
        states = program.run_batch(arguments, backend=backend, temperature=0, seed=SEED)
        seconds = time.perf_counter() - started
        return Ran(seconds, [_answers(state) for state in states])

    def _start(self, model: str) -> None:
        config, usual = dataclasses.asdict(self._config), dataclasses.asdict(EngineConfig())
        words = [f"{name}={config[name]}" for name in config if config[name] != usual[name]]
        self._server = self._stack.enter_context(own_server(model, words))
        self._endpoint = RuntimeEndpoint(self._server.url)
        self._stack.callback(self._endpoint.close)
        for name in ("openai", "openai_forked"):
            self._apis[name] = Api(self._server.url, forks_at_once=name == "openai_forked")
            self._stack.callback(self._apis[name].close)

    def _flush(self) -> None:
        assert self._server is not None
        answer = httpx.post(f"{self._server.url}/flush_cache", timeout=TIMEOUT_S, trust_env=False)
        if answer.status_code != 200:
            raise BackendError(f"the server's cache was not emptied: {answer.text[:200]}")


# -- internals ---------------------------------------------------------------


@contextlib.contextmanager
def _hints(*, is_on: bool) -> Iterator[None]:
    before = global_config.enable_precache_with_tracing, global_config.enable_fork_hints
    global_config.enable_precache_with_tracing = global_config.enable_fork_hints = is_on
    try:
        yield
    finally:
        global_config.enable_precache_with_tracing, global_config.enable_fork_hints = before


def _answers(state: ProgramState) -> Answers:
    state.sync()  # raises what failed
    return {name: state[name] for name in state.stream.variables.names()}
