"""A Python function as a tool: what a model is told of it, and how a model's call runs it.

    tool(function) -> Mapping                        JSON of one tool, from signature and docstring
    await call(function, arguments) -> str           what the model is told of the result

Types: str, int, float, bool, None, Any, Literal, list, dict with text keys, unions (Optional), and
dataclasses of these; `Annotated[T, "..."]` describes a parameter, as do the lines of an `Args:`
section. What a model gets wrong is told in words that it can act upon.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from evolute.lang.tools.kinds import Kind, NoKind, WrongValue, kind_of
from evolute.lang.tools.toolset import NAME
from evolute.types import ConfigError, ToolError

CALL_TIMEOUT_S = 60.0
MAX_SHOWN_CHARS = 300  # of the model's words in an error
BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def tool(function: Callable[..., Any]) -> Mapping[str, Any]:
    """{"type": "function", "function": {"name", "description", "parameters"}}.

    Raises ConfigError naming the parameter whose type is missing or none of those above.
    """
    name = _name_of(function)
    summary, described = _docstring(function)
    properties: dict[str, Any] = {}
    required = []
    for parameter, kind, text in _parameters(function):
        schema = kind.schema()
        text = text or described.get(parameter.name, "")
        properties[parameter.name] = {**schema, "description": text} if text else schema
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    parameters = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": summary, "parameters": parameters},
    }


async def call(
    function: Callable[..., Any], arguments: str, *, timeout_s: float = CALL_TIMEOUT_S
) -> str:
    """Run it with a model's arguments (JSON text); the result as text, JSON unless it is a text.

    A plain function runs in a thread, a coroutine function where it is called. Raises ToolError
    when the arguments do not fit, with the model's own words in it, when the function raises, and
    after `timeout_s` (a thread that hangs is left behind).
    """
    name = _name_of(function)
    values = _values(function, name, arguments)
    try:
        result = await asyncio.wait_for(_run(function, values), timeout_s)
    except TimeoutError as error:
        text = f"{name} was called with {_shown(arguments)} and did not end within {timeout_s:g} s."
        raise ToolError(text) from error
    except Exception as error:
        text = f"{name} was called with {_shown(arguments)} and failed: "
        raise ToolError(text + f"{type(error).__name__}: {error}") from error
    if isinstance(result, str):
        return result
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    return json.dumps(plain, ensure_ascii=False, default=str)


# -- internals ---------------------------------------------------------------


async def _run(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(**values)
    result = await asyncio.to_thread(function, **values)
    return await result if inspect.isawaitable(result) else result


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", "")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"a tool needs a name of 1 to 64 of a-z A-Z 0-9 _ . -, not {name!r}; use a function "
            "made with `def`."
        )
    return str(name)


def _parameters(function: Callable[..., Any]) -> list[tuple[inspect.Parameter, Kind, str]]:
    """Each parameter with its kind and its description, '' where `Annotated` gives none."""
    name = _name_of(function)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ConfigError(f"a type of tool {name} cannot be found: {error}.") from error
    found = []
    for parameter in inspect.signature(function).parameters.values():
        where = f"parameter {parameter.name!r} of tool {name}"
        if parameter.kind not in BY_NAME:
            raise ConfigError(f"{where} cannot be given by name; models call by name only.")
        if parameter.name not in hints:
            raise ConfigError(f"{where} has no type; write {parameter.name}: str, or what it is.")
        hint = hints[parameter.name]
        texts = [x for x in getattr(hint, "__metadata__", ()) if isinstance(x, str)]
        try:
            found.append((parameter, kind_of(hint), " ".join(texts)))
        except NoKind as error:
            raise ConfigError(f"{where}: {error}") from error
    return found


def _values(function: Callable[..., Any], name: str, arguments: str) -> dict[str, Any]:
    """The arguments as Python values. Raises ToolError."""
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        text = f"{name} was called with {_shown(arguments)}, which is not JSON: {error}."
        raise ToolError(text) from error
    kinds = {parameter.name: (parameter, kind) for parameter, kind, _ in _parameters(function)}
    wrong = _complaint(given, kinds)
    values = {}
    for key, value in given.items() if not wrong else ():
        try:
            values[key] = kinds[key][1].read(value)
        except WrongValue as error:
            wrong = f"{key}{error}"
            break
    if wrong:
        raise ToolError(f"{name} was called with {_shown(arguments)}: {wrong}.")
    return values


def _complaint(given: Any, kinds: Mapping[str, tuple[inspect.Parameter, Kind]]) -> str:
    """What is wrong with the names; '' when nothing is."""
    if not isinstance(given, dict):
        return "the arguments must be a JSON object"
    unknown = [key for key in given if key not in kinds]
    if unknown:
        takes = f"it takes {', '.join(kinds)}" if kinds else "it takes no arguments"
        return f"there is no parameter {unknown[0]!r}; {takes}"
    missing = [
        key
        for key, (parameter, _) in kinds.items()
        if key not in given and parameter.default is inspect.Parameter.empty
    ]
    return f"{missing[0]} is missing" if missing else ""


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What stands before the first section, and the text of each parameter under `Args:`."""
    text = inspect.getdoc(function) or ""
    summary, _, rest = text.partition("\nArgs:")
    described: dict[str, str] = {}
    last = ""
    for line in rest.splitlines()[1:]:
        if line.strip() and not line.startswith((" ", "\t")):
            break  # the next section
        found = re.match(r"\s+(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)", line)
        if found:
            last = found[1]
            described[last] = found[2].strip()
        elif line.strip() and last:
            described[last] += " " + line.strip()
    summary = re.split(r"\n(?:Returns|Raises|Yields|Examples?):", summary)[0]
    return " ".join(summary.split()), described


def _shown(arguments: str) -> str:
    if len(arguments) <= MAX_SHOWN_CHARS:
        return arguments
    return f"{arguments[:MAX_SHOWN_CHARS]}... ({len(arguments)} characters)"
