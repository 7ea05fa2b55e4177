"""What the native bodies may hold.

    await read(request, GenerateBody)      checked, or FieldError naming the field
    GenerateBody, SamplingBody             POST /generate
    sampling(body, told) -> SamplingParams

null is the default everywhere. A field of SGLang's that we cannot honour is accepted only at a
value that asks for nothing, else refused (400; pictures and sounds 501); a field that nobody knows
is refused with the nearest name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import Field, ValidationError

from evolute.server.bodies import Many, Strict, read_json
from evolute.server.errors import FieldError, not_supported, unreadable
from evolute.types import SamplingParams
from evolute.types.request import MAX_DEADLINE_S
from evolute.types.settings import nearest

NOTHING: tuple[Any, ...] = (None, False, [], {}, "")  # values that ask for nothing
MAX_INT = 2**31 - 1

# SGLang's field -> why it cannot be honoured here
REFUSED = {
    "input_embeds": "prompts are texts or token ids.",
    "session_params": "there are no sessions; the prefix cache finds what prompts share.",
    "session_id": "there are no sessions; the prefix cache finds what prompts share.",
    "custom_logit_processor": "code from a request is never run.",
    "return_hidden_states": "hidden states do not leave the engine.",
    "return_routed_experts": "the model has no experts.",
    "bootstrap_host": "prefill and decode run in one engine.",
    "bootstrap_port": "prefill and decode run in one engine.",
    "bootstrap_room": "prefill and decode run in one engine.",
    "routed_dp_rank": "which engine serves a request is not chosen by the caller.",
    "data_parallel_rank": "which engine serves a request is not chosen by the caller.",
    "routing_key": "which engine serves a request is not chosen by the caller.",
    "custom_labels": "metrics have fixed labels.",
    "background": "an answer is sent where it was asked for.",
    "max_thinking_tokens": "thinking is not told apart.",
    "return_flat_raw_top_logprobs": "use top_logprobs_num.",
    "structural_tag": "use json_schema, regex, lark or ebnf.",
    "beam_width": "there is no beam search; use n.",
    "custom_params": "there is no code of yours to read them.",
    "manifest": "the directory is read as it is.",
    "is_async": "the answer says whether it worked, so it comes after.",
    "token_step": "use weight_version.",
    "pinned": "adapters stay in memory until they are unloaded.",
    "bypass_load_from_disk": "the weights are read from model_path.",
}
MEDIA = {"image_data": "pictures", "video_data": "videos", "audio_data": "sounds"}
HARMLESS = {  # they ask for what is so in any case
    "modalities": (["text"],),
    "log_metrics": (True,),
    "no_logs": (True,),
    "spaces_between_special_tokens": (True,),
    "torch_empty_cache": (True,),
    "beam_width": (1,),
}


class SamplingBody(Strict):
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: Many[int] | None = None
    stop_regex: str | Many[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = Field(None, ge=-1, le=MAX_INT)  # -1 and 0: off
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    n: int | None = Field(None, ge=1, le=1024)
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    lark: str | None = None  # ours
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    logit_bias: dict[str, float] | None = None
    sampling_seed: int | None = None
    stream_interval: int | None = Field(None, ge=1, le=MAX_INT)


class GenerateBody(Strict):
    """Lists are one value per prompt."""

    text: str | Many[str] | None = None
    input_ids: Many[int] | Many[Many[int]] | None = None
    # ours: one prompt of texts, each tokenised by itself, and of tokens between them
    input_pieces: Many[str | Many[int]] | None = None
    add_special_tokens: bool | None = None  # of the first piece, if it is a text; default true
    sampling_params: dict[str, Any] | Many[dict[str, Any]] | None = None
    return_logprob: bool | Many[bool] | None = None
    logprob_start_len: int | Many[int] | None = None
    top_logprobs_num: int | Many[int] | None = None
    token_ids_logprob: Many[int] | Many[Many[int] | None] | None = None
    return_text_in_logprobs: bool | None = None
    return_prompt_token_ids: bool | None = None
    return_text_prefix: bool | None = None  # ours: how many leading tokens the text is made of
    stream: bool | None = None
    rid: str | Many[str] | None = None
    lora_path: str | Many[str | None] | None = None
    priority: int | None = Field(None, ge=-MAX_INT, le=MAX_INT)
    extra_key: str | Many[str] | None = None
    cache_salt: str | Many[str] | None = None
    deadline_s: float | None = Field(None, ge=0, le=MAX_DEADLINE_S)  # ours: to the first token
    user: str | None = None  # ours: the tenant, when the API key names none


@dataclass(frozen=True, slots=True)
class Told:
    """The log-probabilities that one prompt's answer is to carry."""

    is_wanted: bool = False
    start: int = -1  # first prompt token; -1: none of the prompt
    top: int = 0
    ids: tuple[int, ...] = ()


SHAPES = {
    "text": "a text or a list of texts",
    "input_ids": "a list of token ids, or a list of such lists",
    "input_pieces": "a list of texts and of lists of token ids",
    "token_ids_logprob": "a flat list of integers, or one such list per prompt",
    "stop": "a text or a list of texts",
    "stop_regex": "a text or a list of texts",
    "sampling_params": "an object, or a list of objects",
    "json_schema": "a schema as JSON text or as an object",
    "tokens": "a list of token ids, or a list of such lists",
    "prompt": "a text or a list of texts",
}
Body = TypeVar("Body", bound=Strict)


async def read(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`; none at all is an empty object. Raises FieldError."""
    return check(await read_object(request), kind)


async def read_object(request: Request) -> dict[str, Any]:
    """The body's JSON object, {} when there is no body."""
    return await read_json(request) if (await request.body()).strip() else {}


def check(values: Mapping[str, Any], kind: type[Body], where: str = "") -> Body:
    """`values` as `kind`; `where` is put before the field's name. Raises FieldError."""
    known, kept = list(kind.model_fields), dict(values)
    for name in [name for name in kept if name not in known]:
        value = kept.pop(name)
        if name not in REFUSED and name not in HARMLESS and name not in MEDIA:
            text = f"unknown field {where + name!r}. {nearest(name, known)}"
            raise FieldError(text, param=where + name, code="unknown_field")
        if not _asks_nothing(name, value):
            if name in MEDIA:
                raise unreadable(where + name, MEDIA[name])
            reason = REFUSED.get(name, "only its default can be had.")
            raise not_supported(where + name, reason)
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        raise _field_error(error, where) from None


def sampling(values: Mapping[str, Any], told: Told, where: str) -> tuple[SamplingParams, int]:
    """The sampling of one prompt, and after how many tokens a stream shall tell. Raises
    FieldError or RequestError."""
    body = check(values, SamplingBody, where)
    renamed = {
        "stop": _texts(body.stop),
        "stop_regex": _texts(body.stop_regex),
        "stop_token_ids": None if body.stop_token_ids is None else tuple(body.stop_token_ids),
        "top_k": None if body.top_k is None else max(0, body.top_k),
        "json_schema": _schema(body.json_schema),
        "include_stop": body.no_stop_trim,
        "seed": body.sampling_seed,
        "logit_bias": _logit_bias(body.logit_bias, where),
    }
    ours = {"no_stop_trim", "sampling_seed", "stream_interval", *renamed}
    plain = {name: v for name, v in dict(body).items() if name not in ours}
    chosen = {name: v for name, v in (plain | renamed).items() if v is not None}
    limit = chosen.get("max_new_tokens")
    if limit is not None and chosen.get("min_new_tokens", 0) > limit >= 0:
        text = f"min_new_tokens is above max_new_tokens = {limit}; lower it."
        raise FieldError(text, param=f"{where}min_new_tokens")
    told_of_prompt = told.is_wanted and told.start >= 0
    settings = SamplingParams(
        top_logprobs=told.top,
        logprob_token_ids=told.ids,
        prompt_logprobs=told_of_prompt,
        prompt_logprobs_from=told.start if told_of_prompt else 0,
        prompt_top_logprobs=told.top if told_of_prompt else 0,
        **chosen,
    )
    return settings, body.stream_interval or 1


# -- internals ---------------------------------------------------------------


def _asks_nothing(name: str, value: Any) -> bool:
    fine = NOTHING + HARMLESS.get(name, ())
    return any(type(value) is type(one) and value == one for one in fine)


def _texts(value: str | list[str] | None) -> tuple[str, ...] | None:
    """Empty texts stand for none, as in SGLang."""
    if isinstance(value, str):
        return (value,) if value else ()
    return None if value is None else tuple(value)


def _schema(value: str | dict[str, Any] | None) -> str | None:
    return json.dumps(value) if isinstance(value, dict) else value


def _logit_bias(bias: Mapping[str, float] | None, where: str) -> dict[int, float] | None:
    if bias is None:
        return None
    for key in bias:
        if not key.isdecimal() or len(key) > 9:
            text = f"logit_bias has the key {key[:40]!r}; keys are token ids."
            raise FieldError(text, param=f"{where}logit_bias")
    return {int(key): value for key, value in bias.items()}


def _field_error(error: ValidationError, where: str) -> FieldError:
    """The first complaint; where a field has several shapes, all of them are named."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "body"
    if first["type"] == "missing":
        return FieldError(f"field {where + name!r} is missing.", param=where + name)
    if name in SHAPES:
        return FieldError(f"{where}{name} must be {SHAPES[name]}.", param=where + name)
    got = repr(first["input"])[:80]
    return FieldError(f"{where}{name}: {first['msg']}; got {got}.", param=where + name)
