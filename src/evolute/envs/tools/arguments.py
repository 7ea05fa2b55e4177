"""What a model may pass to a tool, and what it has passed.

    function_schema("bash", "Run a command.", {"command": TEXT}, ["command"])
    read_arguments(schema, arguments) -> dict     checked and converted; ToolError tells the model

A value that arrives as text where a number, a list or a flag is wanted is read as JSON: models that
write parameters between tags send nothing but text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.types import ToolError
from evolute.types.settings import nearest

Schema = Mapping[str, Any]
MAX_SHOWN = 120


def function_schema(
    name: str,
    description: str,
    properties: Mapping[str, Schema],
    required: Sequence[str] = (),
) -> Schema:
    """{"type": "function", ...}; each property is a JSON schema with a description."""
    parameters = {
        "type": "object",
        "properties": {key: dict(value) for key, value in properties.items()},
        "required": list(required),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def text(description: str, *choices: str) -> Schema:
    """A parameter that is a text, or one of a few."""
    schema: dict[str, Any] = {"type": "string", "description": description}
    return schema | ({"enum": list(choices)} if choices else {})


def whole(description: str) -> Schema:
    return {"type": "integer", "description": description}


def whole_list(description: str) -> Schema:
    return {"type": "array", "items": {"type": "integer"}, "description": description}


def text_list(description: str) -> Schema:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def read_arguments(schema: Schema, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, of the right types. Raises ToolError that names the mistake and the
    form."""
    function = schema["function"]
    parameters = function["parameters"]
    known: Mapping[str, Schema] = parameters["properties"]
    if not isinstance(arguments, Mapping):
        raise ToolError(f"{function['name']} takes named parameters: {_form(known)}.")
    for name in arguments:
        if name not in known:
            raise ToolError(
                f"{function['name']} has no parameter {str(name)[:MAX_SHOWN]!r}. "
                f"{nearest(str(name), list(known)) if known else ''} "
                f"Its parameters: {_form(known)}."
            )
    given = {name: value for name, value in arguments.items() if value is not None}
    missing = [name for name in parameters["required"] if name not in given]
    if missing:
        raise ToolError(
            f"{function['name']} needs {', '.join(missing)}. Its parameters: {_form(known)}."
        )
    return {
        name: _read(function["name"], name, value, known[name]) for name, value in given.items()
    }


# -- internals ---------------------------------------------------------------


def _form(known: Mapping[str, Schema]) -> str:
    return ", ".join(f"{name} ({schema['type']})" for name, schema in known.items()) or "none"


def _read(tool: str, name: str, value: Any, schema: Schema) -> Any:
    kind = schema["type"]
    if kind == "string":
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ToolError(f"{name} of {tool} has half a character in it; write valid Unicode.")
        if "enum" in schema and value not in schema["enum"]:
            raise ToolError(
                f"{name} of {tool} is {value[:MAX_SHOWN]!r}; it is one of "
                f"{', '.join(schema['enum'])}."
            )
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            if kind != "array" or schema["items"]["type"] != "string":
                raise _wrong(tool, name, value, kind) from None
            value = [value]
    if kind == "integer":
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or abs(value) > 2**53:
            raise _wrong(tool, name, value, kind)
        return value
    if kind == "array":
        if not isinstance(value, list | tuple):
            value = [value]
        return [_read(tool, f"an item of {name}", item, schema["items"]) for item in value]
    raise AssertionError(kind)


def _wrong(tool: str, name: str, value: Any, kind: str) -> ToolError:
    shown = str(value)[:MAX_SHOWN]
    example = {"integer": "12", "array": "[1, 20]"}[kind]
    return ToolError(f"{name} of {tool} is {shown!r}; it must be of type {kind}, e.g. {example}.")
