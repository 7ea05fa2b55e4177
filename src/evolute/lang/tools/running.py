"""Which results have the calls that a model made?

    as_tools(tools) -> descriptions          functions as JSON, descriptions as they are
    await results_of(calls, functions)       of each call, in order; a failure is told as text

A model acts upon words, so what it got wrong is its result: no call ends the program.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evolute.lang.tools.functions import call, tool
from evolute.types import ConfigError, ToolError
from evolute.types.settings import nearest


def as_tools(tools: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """Raises ConfigError for what is neither a description nor a function with types."""
    return tuple(_described(one) for one in tools)


async def results_of(
    calls: Sequence[Mapping[str, Any]], functions: Sequence[Callable[..., Any]]
) -> list[str]:
    """`calls` as in meta information: {"function": {"name", "arguments"}}. All run at once."""
    known = {function.__name__: function for function in functions}
    return list(await asyncio.gather(*(_result(one["function"], known) for one in calls)))


# -- internals ---------------------------------------------------------------


def _described(one: Any) -> Mapping[str, Any]:
    if isinstance(one, Mapping):
        return one
    if callable(one):
        return tool(one)
    raise ConfigError(f"tool {one!r} is neither a function nor a description in JSON.")


async def _result(asked: Mapping[str, Any], known: Mapping[str, Callable[..., Any]]) -> str:
    name, arguments = asked["name"], asked["arguments"]
    if name not in known:
        return f"There is no tool {name!r}. {nearest(name, sorted(known))}"
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    try:
        return await call(known[name], text)
    except ToolError as error:
        return str(error)
