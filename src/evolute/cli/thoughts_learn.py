"""Filling a thought buffer from a task's build split, where gold answers may be looked at.

learn_from(task, buffer, model, count, parts, words) -> figures
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from evolute.cli.methods import roles_of
from evolute.engine import Engine
from evolute.envs import make_task
from evolute.envs.sandbox.build import make_sandbox
from evolute.lang.account import Account
from evolute.lang.backend import TextBackend
from evolute.lang.endpoints import as_text_backend
from evolute.reasoning.thought_buffer import ThoughtBuffer, ThoughtConfig
from evolute.reasoning.thought_buffer.method import by_world
from evolute.telemetry import progress
from evolute.types import Task
from evolute.types.settings import load


def learn_from(
    name: str,
    buffer: Path,
    model: str,
    count: int,
    parts: list[str],
    words: list[str],
    *,
    allow_unsafe: bool = False,
) -> dict[str, Any]:
    """Problems in turn, so that each finds what the one before left. Raises ConfigError."""
    task = make_task(name)
    keys = [word.removeprefix("method.") for word in words]
    config = load(ThoughtConfig, overrides=[*keys, f"path={buffer}"])
    sandbox = partial(make_sandbox, allow_unsafe=allow_unsafe)
    with ExitStack() as stack:

        def engine() -> TextBackend:
            return as_text_backend(stack.enter_context(Engine(model)))

        roles = roles_of(parts, engine)
        method = ThoughtBuffer(roles, sandbox, config, verify=by_world(task))
        stack.enter_context(closing(method))
        return asyncio.run(_learn(method, task, count))


# -- internals ---------------------------------------------------------------


async def _learn(method: ThoughtBuffer, task: Task, count: int) -> dict[str, Any]:
    account, verify, right = Account(), by_world(task), 0
    with progress(task.name, count) as bar:
        for number, problem in enumerate(task.problems("train", count), 1):
            solution = await method.solve(problem, account)
            right += bool(verify(problem, solution.text))
            bar.advance(number)
    spent = account.spent
    return {
        "task": task.name,
        "right": right,
        "count": count,
        "calls": spent.calls,
        "tokens": spent.tokens,
        "templates": len(method.buffer.all()),
    }
