"""`evolute eval`: accuracy on a task, with a confidence interval; with a method, its cost too."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolute.cli.methods import METHODS, SOLVER, make_method, roles_of
from evolute.cli.options import Json, Model, Set, emit, say, settings, words_of

if TYPE_CHECKING:
    from evolute.engine import EngineConfig
    from evolute.envs.sandbox.contract import Sandbox
    from evolute.lang.backend import TextBackend
    from evolute.reasoning.evaluate import MethodReport
    from evolute.types import Task

app = typer.Typer(add_completion=False)
KEY = "method."  # settings of the method among those of the engine


@app.command(name="eval")
def evaluate_task(
    task: Annotated[str, typer.Argument(help="e.g. addition-2 or reasoning-gym:chain_sum")],
    model: Model = "smollm2-135m",
    adapter: Annotated[str | None, typer.Option(help="a PEFT directory")] = None,
    count: Annotated[int, typer.Option(help="held-out problems")] = 128,
    temperature: Annotated[
        float, typer.Option(help="without --method; a method has its own, by --set")
    ] = 0.0,
    method: Annotated[
        str | None, typer.Option(help=f"default: one greedy answer; {', '.join(METHODS)}")
    ] = None,
    budget_calls: Annotated[int | None, typer.Option(help="of a problem; with --method")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="of a problem; with --method")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="PART=URL#MODEL: who plays a part of the method; repeatable"),
    ] = None,
    unsafe_no_sandbox: Annotated[
        bool, typer.Option("--unsafe-no-sandbox", help="run models' programs unprotected")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON lines: each problem's answer")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="TOML of what --set sets, which goes before it")
    ] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Answer held-out problems once each and count the right ones.

    With --method each problem is solved by it, within its budget; --set method.KEY=VALUE are the
    method's own settings.
    """
    set_ = [*(words_of(recipe) if recipe else []), *(set_ or [])]
    given = dict(locals())
    if method is None:
        _refuse_without_method(given)
        _plain(given)
        return
    _by_method(given)


# -- internals ---------------------------------------------------------------


def _refuse_without_method(given: dict[str, Any]) -> None:
    from evolute.types import ConfigError

    names = ("budget_calls", "budget_tokens", "role", "out")
    for name in names:
        if given[name] not in (None, False, []):
            raise ConfigError(f"--{name.replace('_', '-')} needs --method; add one, or drop it.")
    if any(word.startswith(KEY) for word in given["set_"]):
        raise ConfigError("--set method.* needs --method; add one, or drop it.")


def _plain(given: dict[str, Any]) -> None:
    from evolute.engine import Engine, EngineConfig
    from evolute.envs import evaluate
    from evolute.telemetry import progress

    task, count, adapter = given["task"], given["count"], given["adapter"]
    world = _world(given)
    with Engine(given["model"], settings(EngineConfig, [], given["set_"])) as engine:
        if adapter:
            engine.load_adapter("adapter", adapter)
        with progress(task, count) as bar:
            accuracy = asyncio.run(
                evaluate(
                    world,
                    engine,
                    count=count,
                    adapter="adapter" if adapter else None,
                    temperature=given["temperature"],
                    on_progress=bar.advance,
                )
            )
    interval = accuracy.interval
    if given["json"]:
        emit(
            {
                "task": task,
                "accuracy": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "n": accuracy.n,
                "failed": accuracy.num_failed,
            }
        )
    else:
        print(f"{task}: {interval.mean:.1%} ({interval.low:.1%} to {interval.high:.1%})")


def _by_method(given: dict[str, Any]) -> None:
    from evolute.engine import EngineConfig
    from evolute.lang.account import Budget
    from evolute.reasoning.evaluate import evaluate_method
    from evolute.telemetry import progress
    from evolute.types import ConfigError

    if given["temperature"]:
        raise ConfigError("--temperature is for eval without a method; use --set method.*.")
    world = _world(given)
    own, words = _split(given["set_"])
    config = settings(EngineConfig, [], words)
    budget = Budget(given["budget_calls"], given["budget_tokens"])
    with ExitStack() as stack:
        solver = partial(_local, stack, given["model"], given["adapter"], config)
        roles = roles_of(given["role"] or [], solver)
        method = make_method(
            given["method"], roles, _sandbox(given), own, writes_code=_is_code(world)
        )
        _refuse_unused(given, words)
        started = time.perf_counter()
        with progress(given["task"], given["count"]) as bar:
            report = asyncio.run(
                evaluate_method(
                    world, method, count=given["count"], budget=budget, on_progress=bar.advance
                )
            )
    _tell(given, report, time.perf_counter() - started)


def _world(given: dict[str, Any]) -> Task:
    from evolute.envs import make_task

    return make_task(given["task"], _sandbox(given))


def _sandbox(given: dict[str, Any]) -> Callable[[], Sandbox]:
    from evolute.envs.sandbox.build import make_sandbox

    return partial(make_sandbox, allow_unsafe=given["unsafe_no_sandbox"])


def _split(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The method's settings, nested, and the engine's words."""
    own: dict[str, Any] = {}
    for word in words:
        key, separator, value = word.removeprefix(KEY).partition("=")
        if word.startswith(KEY) and separator:
            place, *path = own, *key.split(".")
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
    return own, [word for word in words if not word.startswith(KEY)]


def _local(stack: ExitStack, model: str, adapter: str | None, config: EngineConfig) -> TextBackend:
    """An engine of our own, closed with the stack; an adapter is merged into its weights."""
    from evolute.engine import Engine
    from evolute.lang.endpoints import as_text_backend
    from evolute.models import load_model, load_peft, merge

    loaded = load_model(model)
    if adapter:
        weights = load_peft(adapter)
        weights.check(loaded.config)
        loaded = dataclasses.replace(loaded, weights=merge(loaded.weights, weights))
    return as_text_backend(stack.enter_context(Engine(loaded, config)))


def _refuse_unused(given: dict[str, Any], words: list[str]) -> None:
    from evolute.types import ConfigError

    if words and any(text.startswith(f"{SOLVER}=") for text in given["role"] or []):
        raise ConfigError("--set of the engine does nothing: another solver was named by --role.")


def _is_code(world: Any) -> bool:
    """Whether answers are programs."""
    return any("code" in p.extras for p in world.problems("heldout", 1))


def _tell(given: dict[str, Any], report: MethodReport, seconds: float) -> None:
    interval, spent, coverage = report.accuracy, report.spent, report.coverage
    values: dict[str, Any] = {
        "task": given["task"],
        "method": given["method"],
        "accuracy": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "n": len(report.graded) - report.num_failed,
        "failed": report.num_failed,
        "calls": spent.calls,
        "prompt_tokens": spent.prompt_tokens,
        "output_tokens": spent.output_tokens,
        "reasons": report.reasons,
        "by_role": report.by_role,
        "seconds": seconds,
    }
    if coverage:
        values["coverage"] = coverage.mean
    if given["out"]:
        _write(given["out"], report)
    if given["json"]:
        emit(values)
        return
    print(f"{given['task']}: {interval.mean:.1%} ({interval.low:.1%} to {interval.high:.1%})")
    say(f"{given['method']}: {seconds:.1f} s, {_words(report.reasons)}")
    for name, one in report.by_role.items():
        tokens = f"{one.prompt_tokens} prompt and {one.output_tokens} output tokens"
        say(f"  {name}: {one.calls} calls, {tokens}")


def _words(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())


def _write(path: Path, report: MethodReport) -> None:
    from evolute.telemetry import RecordWriter

    path.unlink(missing_ok=True)
    with RecordWriter(path, flush_every=100) as writer:
        for one in report.graded:
            writer.write(
                {
                    "problem_id": one.problem.id,
                    "is_right": one.is_right,
                    "is_covered": one.is_covered,
                    "text": one.solution.text if one.solution else "",
                    "reason": one.solution.reason if one.solution else one.failure,
                    "details": dict(one.solution.details) if one.solution else {},
                    "calls": one.spent.calls,
                    "tokens": one.spent.tokens,
                }
            )
