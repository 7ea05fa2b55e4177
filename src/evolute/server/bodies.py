"""What a request body may hold, and what its fields mean for sampling.

    await read(request, CompletionBody)    checked, or FieldError naming the field
    sampling(body, ...) -> SamplingParams  the fields that both endpoints share

Types are strict: "0.5" is no number. A field we do not know is refused with the nearest name
we do. A field of OpenAI's that we cannot honour is accepted only at the value that asks for
nothing (`TRIVIAL`), else refused with 501.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evolute.server.errors import FieldError, not_supported
from evolute.types import SamplingParams
from evolute.types.sampling import MAX_TOP_LOGPROBS
from evolute.types.settings import nearest

MAX_CHOICES = 1024  # prompts x n of one call

# OpenAI's field -> values that ask for nothing and are therefore accepted
TRIVIAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "safety_identifier": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "suffix": (),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    include_usage: bool = False


class JsonSchema(_Strict):
    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None  # always strict here: the output cannot leave the schema


class ResponseFormat(_Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationBody(_Strict):
    """What completions and chat share. None stands for the default, as in OpenAI's API."""

    model: str = "default"
    n: int | None = Field(None, ge=1, le=128)
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    user: str | None = None  # the tenant who is billed for fairness
    response_format: ResponseFormat | None = None
    # ours, with the names that SGLang and vLLM use
    top_k: int | None = Field(None, ge=-1)  # -1 and 0: off
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop: bool | None = None
    skip_special_tokens: bool | None = None
    cache_salt: str | None = None
    return_token_ids: bool | None = None


class CompletionBody(GenerationBody):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    prompt_logprobs: bool | None = None
    best_of: int | None = None


class ChatBody(GenerationBody):
    messages: list[dict[str, Any]]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


Body = TypeVar("Body", bound=GenerationBody)


async def read(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. Raises FieldError (400, 413, 501) in words that name the field."""
    values = await read_json(request)
    for name in [name for name in values if name in TRIVIAL]:
        value = values.pop(name)
        if value is not None and not any(value is v or value == v for v in TRIVIAL[name]):
            raise not_supported(name, "this server cannot do it yet; leave the field out.")
    known = list(kind.model_fields)
    for name in values:
        if name not in known:
            text = f"unknown field {name!r}. {nearest(name, known)}"
            raise FieldError(text, param=name, code="unknown_field")
    try:
        body = kind.model_validate(values)
    except ValidationError as error:
        raise _field_error(error) from None
    if body.stream_options is not None and not body.stream:
        raise FieldError("stream_options needs stream=true.", param="stream_options")
    return body


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


def sampling(
    body: GenerationBody, *, max_new_tokens: int, top_logprobs: int, prompt_logprobs: bool = False
) -> SamplingParams:
    """Fields left out keep the defaults of OpenAI's API, which are those of SamplingParams."""
    stop = body.stop
    chosen = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "min_p": body.min_p,
        "min_new_tokens": body.min_tokens,
        "repetition_penalty": body.repetition_penalty,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "seed": body.seed,
        "n": body.n,
        "ignore_eos": body.ignore_eos,
        "include_stop": body.include_stop,
        "skip_special_tokens": body.skip_special_tokens,
        "regex": body.regex,
        "lark": body.lark,
        "json_schema": _schema(body),
    }
    settings: dict[str, Any] = {name: v for name, v in chosen.items() if v is not None}
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        top_k=max(0, body.top_k or 0),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_logit_bias(body.logit_bias or {}),
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        **settings,
    )


def check_token_ids(token_ids: list[int], vocab_size: int, field: str) -> None:
    """Raises FieldError for the first id outside the vocabulary."""
    bad = next((id for id in token_ids if not 0 <= id < vocab_size), None)
    if bad is not None:
        text = f"token id {bad} in {field} is out-of-vocabulary; ids are 0 to {vocab_size - 1}."
        raise FieldError(text, param=field)


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


def _field_error(error: ValidationError) -> FieldError:
    """The first complaint. In a union each member complains; the field's name is enough."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else "body"
    same_field = [e for e in error.errors() if e["loc"] and str(e["loc"][0]) == name]
    if len(same_field) > 1 and name in ("prompt", "stop", "json_schema"):
        allowed = {
            "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
            "stop": "a text or a list of texts",
            "json_schema": "a schema as JSON text or as an object",
        }
        return FieldError(f"{name} must be {allowed[name]}.", param=name)
    if first["type"] == "missing":
        return FieldError(f"field {'.'.join(where)!r} is missing.", param=name)
    got = repr(first["input"])
    return FieldError(f"{'.'.join(where)}: {first['msg']}; got {got[:80]}.", param=name)


def _schema(body: GenerationBody) -> str | None:
    """One JSON schema from `response_format` or `json_schema`; both at once are refused."""
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        own = body.json_schema
        return json.dumps(own) if isinstance(own, dict) else own or None
    if body.json_schema or body.regex or body.lark:
        text = "response_format excludes json_schema, regex and lark; keep one of them."
        raise FieldError(text, param="response_format")
    if wanted.type == "json_object":
        return '{"type": "object"}'
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        text = "response_format of type json_schema needs json_schema.schema."
        raise FieldError(text, param="response_format")
    return json.dumps(wanted.json_schema.schema_)


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for key, value in bias.items():
        if not key.isdecimal() or not -100 <= value <= 100:
            text = f"logit_bias[{key!r}] is {value}; keys are token ids, values -100 to 100."
            raise FieldError(text, param="logit_bias")
    return {int(key): value for key, value in bias.items()}
