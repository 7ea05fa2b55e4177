"""`evolute agents run AGENT.toml`: an agent with tools on a task, resumable."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evolute.cli.options import Json, PrintConfig, Set, emit, overrides, say, settings

if TYPE_CHECKING:
    from evolute.agents.run import AgentsConfig, AgentsRun
    from evolute.envs.tools import ToolTask
    from evolute.types import Backend, Rollout

app = typer.Typer(no_args_is_help=True, add_completion=False)
ENGINE = "engine."


@app.callback()
def root() -> None:
    """Agents that act through tools."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    agent: Annotated[Path, typer.Argument(help="TOML, see recipes/agents/")],
    run_dir: Annotated[Path | None, typer.Option(help="default: runs/TIME; may exist")] = None,
    set_: Set = None,
    print_config: PrintConfig = False,
    json: Json = False,
) -> None:
    """Let an agent work on held-out problems of a task and say how many it solved.

    The same command with the same --run-dir goes on. Any setting may follow by its name:
    --count 8 --agent.max_turns 10 --engine.context 4096. Read the trajectories in
    RUN_DIR/trajectories.jsonl.
    """
    from evolute.agents.report import summary
    from evolute.agents.run import AgentsConfig, run_agents
    from evolute.cli.run_state import hold
    from evolute.telemetry import progress

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    changes = [*(set_ or []), *overrides(context.args, "agents")]
    for_engine = [word.removeprefix(ENGINE) for word in changes if word.startswith(ENGINE)]
    own = [word for word in changes if not word.startswith(ENGINE)]
    config = settings(AgentsConfig, [agent], own, print_config=print_config)
    directory = run_dir or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    directory.mkdir(parents=True, exist_ok=True)
    task = _task(config.task)
    with ExitStack() as stack:
        stack.enter_context(hold(directory))
        backend, adapter = _backend(config, for_engine, stack)
        bar = stack.enter_context(progress(config.task, config.count * config.samples))
        show = partial(_show, bar, {})
        ran = asyncio.run(
            _run(
                run_agents(config, task, backend, directory, adapter=adapter, on_done=show), backend
            )
        )
    report = summary(ran.rollouts, ran.endings, ran.stats)
    for line in _lines(report, ran):
        print(line)
    say(f"trajectories: {directory / 'trajectories.jsonl'}")
    if json:
        emit({"run_dir": str(directory), "task": config.task, "resumed": ran.resumed, **report})


# -- internals ---------------------------------------------------------------


def _task(name: str) -> ToolTask:
    from evolute.envs.tools.registry import make_tool_task

    return make_tool_task(name)


def _backend(
    config: AgentsConfig, for_engine: list[str], stack: ExitStack
) -> tuple[Backend, str | None]:
    """An engine here, or the server at `url`; and what the adapter is called there."""
    from evolute.types import ConfigError

    if config.url:
        if for_engine:
            raise ConfigError(f"{for_engine[0]!r} is a setting of an engine here; drop it, or url.")
        from evolute.models import load_model
        from evolute.server.client import HttpBackend

        tokenizer = load_model(config.model).tokenizer
        return HttpBackend(config.url, tokenizer=tokenizer), config.adapter
    from evolute.engine import Engine, EngineConfig

    engine = stack.enter_context(Engine(config.model, settings(EngineConfig, [], for_engine)))
    if config.adapter is None:
        return engine, None
    engine.load_adapter("adapter", config.adapter)
    return engine, "adapter"


async def _run(run: Any, backend: Backend) -> AgentsRun:
    try:
        found: AgentsRun = await run
        return found
    finally:
        close = getattr(backend, "aclose", None)
        if close is not None:
            await close()


def _show(bar: Any, right: dict[tuple[int, int], bool], done: int, rollout: Rollout) -> None:
    if rollout.outcome.is_reward_valid:
        right[rollout.group, rollout.index] = rollout.metrics["accuracy"] >= 1
    share = sum(right.values()) / len(right) if right else 0.0
    bar.advance(done, f"right {share:.2f}")


def _lines(report: dict[str, Any], ran: AgentsRun) -> list[str]:
    resumed = f" ({ran.resumed} from before)" if ran.resumed else ""
    lines = [
        f"accuracy {report['accuracy']:.3f} [{report['low']:.3f}, {report['high']:.3f}], "
        f"n = {report['n']}{resumed}; reward {report['reward']:.3f}",
        f"ended by: finish {report['finish_ratio']:.2f}, turns {report['max_turns_ratio']:.2f}, "
        f"context {report['context_ratio']:.2f}, stuck {report['stuck_ratio']:.2f}; "
        f"failed {report['failed']}",
        f"a trajectory: {report['turns']:.1f} turns, {report['tokens']:.0f} tokens, "
        f"{report['samples']:.2f} training samples",
    ]
    for name in ("mistakes", "tool_calls"):
        kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in report[name].items())
        lines.append(f"{name.replace('_', ' ')} a trajectory: {kinds}")
    if report["failures"]:
        lines.append(f"failures: {report['failures']}")
    return lines
