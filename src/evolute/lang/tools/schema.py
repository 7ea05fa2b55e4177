"""Is this a JSON schema? Enough of an answer to refuse what no reading can make sense of.

    complaint(schema) -> None, or what is wrong and where

Keywords that we do not know are left alone, as the standard asks; whether a schema can be made
a grammar is for the grammar's compiler to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
ONE = ("items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
MAX_DEPTH = 64


def complaint(schema: Any, *, must_be_object: bool = False) -> str | None:
    """With `must_be_object`, a schema of something else is a complaint too."""
    if must_be_object:
        kind = schema.get("type", "object") if isinstance(schema, Mapping) else None
        if kind != "object":
            return f"its type must be 'object', not {kind!r}"
    return _complaint(schema, "", 0)


# -- internals ---------------------------------------------------------------


def _complaint(schema: Any, where: str, depth: int) -> str | None:
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, Mapping):
        return f"{where or 'it'} must be an object, not {_shown(schema)}"
    if depth > MAX_DEPTH:
        return f"it is nested deeper than {MAX_DEPTH}"
    own = _own(schema, where)
    if own:
        return own
    for place, inner in _inner(schema, where):
        found = _complaint(inner, place, depth + 1)
        if found:
            return found
    return None


def _own(schema: Mapping[str, Any], where: str) -> str | None:
    """What is wrong with the keywords of this level."""
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            return f"{where}type is {_shown(kind)}; types are {', '.join(sorted(TYPES))}"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return f"{where}required must be a list of names"
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        return f"{where}enum must be a list with at least one value"
    if not isinstance(schema.get("$ref", ""), str):
        return f"{where}$ref must be a text"
    for name in MAPS:
        if not isinstance(schema.get(name, {}), Mapping):
            return f"{where}{name} must be an object"
    for name in LISTS:
        if name in schema and not (isinstance(schema[name], list) and schema[name]):
            return f"{where}{name} must be a list with at least one schema"
    return None


def _inner(schema: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    found = []
    for name in ONE:
        value = schema.get(name, True)
        many = value if isinstance(value, list) else [value]  # `items` was a list once
        found += [(f"{where}{name}.", inner) for inner in many]
    for name in LISTS:
        found += [(f"{where}{name}.", inner) for inner in schema.get(name, ())]
    for name in MAPS:
        found += [(f"{where}{name}.{key}.", inner) for key, inner in schema.get(name, {}).items()]
    return found


def _shown(value: Any) -> str:
    return repr(value)[:60]
