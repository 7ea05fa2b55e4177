"""What a request body may hold, checked before anything is done with it.

    await read(request, kind)     a body of that kind, or FieldError naming the field
    await read_json(request)      any JSON object
    check_token_ids(ids, ...)     ids of the vocabulary
    check_text(text, engine)      no text that is surely longer than the context
    parse_arguments(text, where)  a call's arguments as a client sends them back

Types are strict: "0.5" is no number. A field we do not know is refused with the nearest name
we do. A field of the API that we cannot honour is accepted only at the values that ask for
nothing (`trivial` of the body's class), else refused (400) by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, FailFast, ValidationError

from evolute.server.admin import context_of
from evolute.server.errors import FieldError, not_supported
from evolute.types import Backend, PromptTooLong
from evolute.types.settings import nearest

MAX_CHOICES = 1024  # prompts x n of one call


class Strict(BaseModel):
    """A part of a body. No field is converted, none is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StrictBody(Strict):
    """A body: `trivial` are fields that we cannot honour, with the values that ask for nothing."""

    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    unions: ClassVar[Mapping[str, str]] = {}  # field of many forms -> what they are, in words


Body = TypeVar("Body", bound=StrictBody)
Item = TypeVar("Item")


class _FailFast(FailFast):
    __hash__ = object.__hash__  # unions of annotated types need one


Many = Annotated[list[Item], _FailFast()]  # one complaint, not one for each of a million items


async def read(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises FieldError (400, 413) in words that name the field."""
    values = await read_json(request)
    for name in [name for name in values if name in kind.trivial]:
        value = values.pop(name)
        if value is not None and not any(value is v or value == v for v in kind.trivial[name]):
            raise not_supported(name, "this server cannot do it; leave the field out.")
    known = [field.alias or name for name, field in kind.model_fields.items()]
    for name in values:
        if name not in known:
            text = f"unknown field {name!r}. {nearest(name, known)}"
            raise FieldError(text, param=name, code="unknown_field")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _field_error(error, kind.unions) from None


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises FieldError for anything else."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise FieldError(
            f"content type is {content_type or 'missing'!r}; send application/json.",
            code="bad_content_type",
        )
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk  # limits.Guard ends one that is too large
    return _parse(bytes(raw))


def check_token_ids(token_ids: list[int], vocab_size: int, field: str) -> None:
    """Raises FieldError for the first id outside the vocabulary."""
    bad = next((id for id in token_ids if not 0 <= id < vocab_size), None)
    if bad is not None:
        text = f"token id {bad} in {field} is out-of-vocabulary; ids are 0 to {vocab_size - 1}."
        raise FieldError(text, param=field)


def check_text(text: str, engine: Backend) -> None:
    """Raises PromptTooLong for a text that no tokenization could make short enough.

    Cutting a text of megabytes into tokens takes seconds, in which nobody else is answered.
    """
    context, most = context_of(engine), getattr(engine.tokenizer, "max_token_bytes", None)
    if context is None or most is None or len(text) <= context:
        return
    least = -(-len(text.encode()) // most)
    if least > context:
        raise PromptTooLong(
            f"the text has at least {least} tokens, but the model holds {context}. Shorten it."
        )


def parse_arguments(text: Any, where: str) -> dict[str, Any]:
    """Raises FieldError unless `text` is a JSON object as text."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FieldError(f"{where} must be a JSON object as text.", param=where)
    return value


# -- internals ---------------------------------------------------------------


def _parse(raw: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise FieldError(f"the body holds {constant}, which is not JSON.", code="bad_json")

    try:
        values = json.loads(raw, parse_constant=refuse)
        if b"\\ud" in raw.lower():  # only then can there be half a surrogate pair
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeError:
        raise FieldError("the body is not valid Unicode text.", code="bad_json") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, FieldError):
            raise
        raise FieldError(f"the body is not valid JSON: {error}", code="bad_json") from None
    if not isinstance(values, dict):
        raise FieldError("the body must be a JSON object.", code="bad_json")
    return values


def _field_error(error: ValidationError, unions: Mapping[str, str]) -> FieldError:
    """The first complaint. In a union each member complains; the field's name is enough."""
    complaints = error.errors(include_url=False, include_context=False)
    first = complaints[0]
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else "body"
    same_field = [e for e in complaints if e["loc"] and str(e["loc"][0]) == name]
    if len(same_field) > 1 and name in unions:
        return FieldError(f"{name} must be {unions[name]}.", param=name)
    if first["type"] == "missing":
        return FieldError(f"field {'.'.join(where)!r} is missing.", param=name)
    got = repr(first["input"])
    return FieldError(f"{'.'.join(where)}: {first['msg']}; got {got[:80]}.", param=name)
