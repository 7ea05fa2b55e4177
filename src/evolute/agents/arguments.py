"""Do a call's arguments fit the tool's JSON schema, and if not, what is wrong?

    complaint(value, schema) -> None or words       the path and what was wanted there
    read_text(text, schema) -> value                a bare text as the value that the schema wants

Keywords: type, enum, const, properties, required, additionalProperties, items, prefixItems, bounds
of numbers, texts and lists, pattern, anyOf, oneOf, allOf, not, and $ref within the schema. Others
are left alone. Compared with the `jsonschema` package in tests.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any] | bool
MAX_DEPTH = 32
MAX_SHOWN_CHARS = 80
NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "null",
}
BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"),
    "exclusiveMaximum": (operator.lt, "less than"),
}


def complaint(value: Any, schema: Schema) -> str | None:
    """The first thing that is wrong, as in `lines[2] must be a whole number, not "x"`."""
    return next(_wrong(value, schema, "", schema, 0), None)


def read_text(text: str, schema: Schema, root: Schema | None = None) -> Any:
    """For calls whose values have no quotes: JSON where the schema wants no text, else the text."""
    root = schema if root is None else root
    if complaint_of(text, schema, root) is None:
        return text
    try:
        value = json.loads(text.strip(), strict=False)
    except (ValueError, RecursionError):
        return text
    fits = complaint_of(value, schema, root) is None
    return value if fits or not isinstance(value, str) else text


def complaint_of(value: Any, schema: Schema, root: Schema) -> str | None:
    """As `complaint`, for a part of `root`, to which its references point."""
    return next(_wrong(value, schema, "", root, 0), None)


# -- internals ---------------------------------------------------------------


def _wrong(value: Any, schema: Schema, path: str, root: Schema, depth: int) -> Iterator[str]:
    name = path or "the value"
    if schema is False:
        yield f"{name} is not allowed"
    if isinstance(schema, bool) or depth > MAX_DEPTH:
        return
    yield from _wrong_kind(value, schema, name)
    if "$ref" in schema:
        yield from _wrong(value, _target(schema["$ref"], root), path, root, depth + 1)
    yield from _wrong_choice(value, schema, path, root, depth)
    if isinstance(value, Mapping):
        yield from _wrong_object(value, schema, path, root, depth)
    elif isinstance(value, list):
        yield from _wrong_list(value, schema, path, root, depth)
    elif isinstance(value, str):
        yield from _wrong_size(len(value), schema, name, "minLength", "maxLength", "characters")
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and not _matches(pattern, value):
            yield f"{name} must match the pattern {pattern}, not be {_shown(value)}"
    elif _is_number(value):
        yield from _wrong_number(value, schema, name)


def _wrong_kind(value: Any, schema: Mapping[str, Any], name: str) -> Iterator[str]:
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if kinds and not any(_is_kind(value, kind) for kind in kinds):
        yield f"{name} must be {' or '.join(NAMES.get(k, k) for k in kinds)}, not {_shown(value)}"
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        allowed = ", ".join(_shown(each) for each in schema["enum"])
        yield f"{name} must be one of {allowed}, not {_shown(value)}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{name} must be {_shown(schema['const'])}, not {_shown(value)}"


def _wrong_choice(
    value: Any, schema: Mapping[str, Any], path: str, root: Schema, depth: int
) -> Iterator[str]:
    for part in schema.get("allOf", ()):
        yield from _wrong(value, part, path, root, depth + 1)
    for word in ("anyOf", "oneOf"):
        found = [next(_wrong(value, s, path, root, depth + 1), None) for s in schema.get(word, ())]
        fits = found.count(None)
        if found and not fits:
            texts = list(dict.fromkeys(text for text in found if text))
            yield " or else ".join(texts)
        elif word == "oneOf" and fits > 1:
            yield f"{path or 'the value'} fits {fits} forms where only one may fit"
    if "not" in schema and next(_wrong(value, schema["not"], path, root, depth + 1), None) is None:
        yield f"{path or 'the value'} is of a form that is not allowed"


def _wrong_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], path: str, root: Schema, depth: int
) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{_at(path, name)} is missing"
    for name, inner in value.items():
        if name in properties:
            yield from _wrong(inner, properties[name], _at(path, name), root, depth + 1)
        elif not _is_patterned(name, schema):
            more = schema.get("additionalProperties", True)
            if more is False:
                known = ", ".join(properties) or "none"
                yield f"{_at(path, name)} is not a parameter; there are: {known}"
            else:
                yield from _wrong(inner, more, _at(path, name), root, depth + 1)
        for pattern, each in schema.get("patternProperties", {}).items():
            if _matches(pattern, name):
                yield from _wrong(inner, each, _at(path, name), root, depth + 1)


def _wrong_list(
    value: list[Any], schema: Mapping[str, Any], path: str, root: Schema, depth: int
) -> Iterator[str]:
    yield from _wrong_size(len(value), schema, path or "the value", "minItems", "maxItems", "items")
    first = schema.get("prefixItems", ())
    for place, inner in enumerate(value):
        each = first[place] if place < len(first) else schema.get("items", True)
        yield from _wrong(inner, each, f"{path}[{place}]", root, depth + 1)
    if schema.get("uniqueItems") and any(
        _same(one, other) for place, one in enumerate(value) for other in value[:place]
    ):
        yield f"{path or 'the value'} holds something twice"


def _wrong_number(value: float, schema: Mapping[str, Any], name: str) -> Iterator[str]:
    for word, (holds, text) in BOUNDS.items():
        bound = schema.get(word)
        if _is_number(bound) and not holds(value, bound):
            yield f"{name} must be {text} {bound}, not {_shown(value)}"
    step = schema.get("multipleOf")
    if _is_number(step) and step and not _is_multiple(value, step):
        yield f"{name} must be a multiple of {step}, not {_shown(value)}"


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    try:
        return math.isclose(value / step, round(value / step))
    except (OverflowError, ValueError):  # infinite, or larger than a float can say
        return False


def _wrong_size(
    size: int, schema: Mapping[str, Any], name: str, least: str, most: str, unit: str
) -> Iterator[str]:
    if size < schema.get(least, 0):
        yield f"{name} must have at least {schema[least]} {unit}, not {size}"
    if size > schema.get(most, math.inf):
        yield f"{name} must have at most {schema[most]} {unit}, not {size}"


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "integer":
        return _is_number(value) and (isinstance(value, int) or value.is_integer())
    if kind == "number":
        return _is_number(value)
    kinds = {"object": Mapping, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, kinds.get(kind, object))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: 1 is 1.0, and true is no 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _is_patterned(name: str, schema: Mapping[str, Any]) -> bool:
    return any(_matches(pattern, name) for pattern in schema.get("patternProperties", {}))


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True  # the tool's mistake, not the model's


def _target(reference: Any, root: Schema) -> Schema:
    """The schema that a local reference names; True, which allows all, where it names none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return True
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return True
        found = found[key]
    return found if isinstance(found, Mapping | bool) else True


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 3] + "..."
