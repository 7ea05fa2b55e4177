"""One call of a tool, whatever the tool does: returns, raises, hangs, or answers nonsense.

    await call_tool(tool, name, arguments, context) -> ToolResult
    ToolFailed                                      what the model is told instead

A broken sandbox or model service is the infrastructure's and ends the episode; every other
exception is told to the model, as most come from what it asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from evolute.agents.metrics import TOOL_SECONDS
from evolute.agents.parsing import Mistake
from evolute.envs.tools import Tool, ToolContext, ToolResult
from evolute.types import BackendError, EpisodeError, OutOfCapacity, SandboxError, ToolError

BROKEN = (SandboxError, BackendError, OutOfCapacity)
MAX_SHOWN_CHARS = 500  # of an exception's text


class ToolFailed(Exception):
    """The call has no result; the text is for the model."""

    def __init__(self, mistake: Mistake, text: str) -> None:
        super().__init__(text)
        self.mistake = mistake


async def call_tool(
    tool: Tool, name: str, arguments: Mapping[str, Any], context: ToolContext
) -> ToolResult:
    """Raises ToolFailed, or one of BROKEN. After the tool's time it is cancelled; one that goes on
    nevertheless is left behind."""
    started = time.perf_counter()
    task = asyncio.create_task(_guarded(tool, arguments, context))
    try:
        await asyncio.wait({task}, timeout=context.timeout_s)
        if not task.done():
            text = f"{name} did not end within {context.timeout_s:g} s and was stopped. "
            raise ToolFailed(Mistake.TOOL_TIMEOUT, text + "Ask for less at once.")
        return _result_of(task, name)
    finally:
        task.cancel()  # nothing, when it is done
        TOOL_SECONDS.labels(name).observe(time.perf_counter() - started)


# -- internals ---------------------------------------------------------------


async def _guarded(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> Any:
    try:
        return await tool.call(arguments, context)
    except SystemExit as error:  # would end this program
        raise EpisodeError(f"it raised SystemExit: {error}") from error


def _result_of(task: asyncio.Task[Any], name: str) -> ToolResult:
    if task.cancelled():
        raise ToolFailed(Mistake.TOOL_ERROR, f"{name} was cancelled from within.")
    error = task.exception()
    if isinstance(error, BROKEN):
        raise error
    if isinstance(error, ToolError):
        raise ToolFailed(Mistake.TOOL_ERROR, _cut(str(error)))
    if error is not None:
        text = f"{name} failed: {type(error).__name__}: {error}"
        raise ToolFailed(Mistake.TOOL_ERROR, _cut(text))
    result = task.result()
    if not isinstance(result, ToolResult):
        text = f"{name} failed: it gave a {type(result).__name__} and no result."
        raise ToolFailed(Mistake.TOOL_ERROR, text)
    return result


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
