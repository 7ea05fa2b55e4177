"""One call of a tool, whatever the tool does: returns, raises, hangs, or answers nonsense.

    await call_tool(tool, name, arguments, context) -> ToolResult
    ToolFailed                                      what the model is told instead

A broken sandbox or model service is the infrastructure's and ends the episode; every other
exception is told to the model, as most come from what it asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from evolute.agents.bounded import StageTimeout, within
from evolute.agents.metrics import TOOL_SECONDS
from evolute.agents.parsing import Mistake
from evolute.envs.tools import Tool, ToolContext, ToolResult
from evolute.types import BackendError, OutOfCapacity, SandboxError, ToolError

BROKEN = (SandboxError, BackendError, OutOfCapacity)
GRACE_S = 2.0
MAX_SHOWN_CHARS = 500  # of an exception's text


class ToolFailed(Exception):
    """The call has no result; the text is for the model."""

    def __init__(self, mistake: Mistake, text: str) -> None:
        super().__init__(text)
        self.mistake = mistake


async def call_tool(
    tool: Tool, name: str, arguments: Mapping[str, Any], context: ToolContext
) -> ToolResult:
    """Raises ToolFailed, or one of BROKEN. After the tool's time, and when we are cancelled, it is
    cancelled too and has GRACE_S to end; one that goes on nevertheless is left behind."""
    started = time.perf_counter()
    try:
        result = await within(tool.call(arguments, context), context.timeout_s, name, GRACE_S)
    except BROKEN:
        raise
    except StageTimeout as error:
        text = f"{name} did not end within {context.timeout_s:g} s and was stopped. "
        raise ToolFailed(Mistake.TOOL_TIMEOUT, text + "Ask for less at once.") from error
    except ToolError as error:
        raise ToolFailed(Mistake.TOOL_ERROR, _cut(str(error))) from error
    except Exception as error:
        text = f"{name} failed: {type(error).__name__}: {error}"
        raise ToolFailed(Mistake.TOOL_ERROR, _cut(text)) from error
    finally:
        TOOL_SECONDS.labels(name).observe(time.perf_counter() - started)
    if not isinstance(result, ToolResult):
        text = f"{name} failed: it gave a {type(result).__name__} and no result."
        raise ToolFailed(Mistake.TOOL_ERROR, text)
    return result


# -- internals ---------------------------------------------------------------


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
