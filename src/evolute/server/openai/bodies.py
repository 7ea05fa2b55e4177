"""Bodies of /v1/completions and /v1/chat/completions, and what their fields mean for sampling.

sampling(body, ...) -> SamplingParams    the fields that both endpoints share
schema_of(format, ...) -> text or None   the JSON schema that a response format stands for
texts(value) -> tuple                    one text or a list of them
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from evolute.server.bodies import Many, Strict, StrictBody
from evolute.server.errors import FieldError
from evolute.server.shapes import CHAT_CHOICE, CHAT_MESSAGES, CHAT_TOOLS
from evolute.types import SamplingParams
from evolute.types.request import MAX_DEADLINE_S
from evolute.types.sampling import MAX_TOP_LOGPROBS

# field of OpenAI's or SGLang's -> values that ask for nothing and are therefore accepted
TRIVIAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "metadata": ({},),
    "safety_identifier": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "suffix": ("",),
    "separate_reasoning": (),
    "stream_reasoning": (),
    "structural_tag": (),
    "session_params": (),
    "lora_path": (),
    "rid": (),
    "extra_key": (),
    "custom_logit_processor": (),
    "custom_params": (),
    "return_hidden_states": (False,),
}
UNIONS = {
    "prompt": "a text, a list of texts, a list of token ids, or a list of such lists",
    "stop": "a text or a list of texts",
    "stop_regex": "a regex or a list of regexes",
    "json_schema": "a schema as JSON text or as an object",
    "tool_choice": "none, auto, required, or an object that names a function",
}


class StreamOptions(Strict):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # in every chunk, the counts so far
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    name: str = "schema"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None  # always strict here: the output cannot leave the schema


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class GenerationBody(StrictBody):
    """What completions and chat share. None stands for the default, as in OpenAI's API."""

    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = TRIVIAL
    unions: ClassVar[Mapping[str, str]] = UNIONS

    model: str = "default"
    n: int | None = Field(None, ge=1, le=128)
    stop: str | Many[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    user: str | None = None  # the tenant who is billed for fairness
    prompt_cache_key: str | None = None  # a hint: where several engines serve, to the same one
    response_format: ResponseFormat | None = None
    # ours, with the names that SGLang and vLLM use
    top_k: int | None = Field(None, ge=-1)  # -1 and 0: off
    min_p: float | None = Field(None, ge=0, le=1)
    min_tokens: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    ebnf: str | None = None
    stop_regex: str | Many[str] | None = None
    stop_token_ids: Many[int] | None = None
    ignore_eos: bool | None = None
    include_stop: bool | None = None
    no_stop_trim: bool | None = None  # SGLang's word for include_stop
    skip_special_tokens: bool | None = None
    cache_salt: str | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)  # higher goes first
    deadline_s: float | None = Field(None, ge=0, le=MAX_DEADLINE_S)  # to the first token; 0: none
    return_token_ids: bool | None = None


class CompletionBody(GenerationBody):
    prompt: str | Many[str] | Many[int] | Many[Many[int]]
    max_tokens: int | None = Field(None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    prompt_logprobs: bool | None = None
    best_of: int | None = None


class ChatBody(GenerationBody):
    messages: CHAT_MESSAGES
    tools: CHAT_TOOLS | None = None
    tool_choice: CHAT_CHOICE | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def sampling(
    body: GenerationBody,
    *,
    max_new_tokens: int,
    top_logprobs: int,
    grammar: Mapping[str, str],  # what `answer_schema` and tools come to
    prompt_logprobs: bool = False,
    prompt_top_logprobs: int = 0,
) -> SamplingParams:
    """Fields left out keep the defaults of OpenAI's API, which are those of SamplingParams."""
    options = body.stream_options
    if options is not None and not body.stream:
        raise FieldError("stream_options needs stream=true.", param="stream_options")
    if options and options.continuous_usage_stats and not options.include_usage:
        text = "stream_options.continuous_usage_stats needs include_usage=true."
        raise FieldError(text, param="stream_options")
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
        "include_stop": body.include_stop or body.no_stop_trim,
        "skip_special_tokens": body.skip_special_tokens,
        "regex": body.regex,
        "lark": body.lark,
        "ebnf": body.ebnf,
        **grammar,
    }
    settings: dict[str, Any] = {name: v for name, v in chosen.items() if v is not None}
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        top_k=max(0, body.top_k or 0),
        stop=texts(body.stop),
        stop_regex=texts(body.stop_regex),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logit_bias=_logit_bias(body.logit_bias or {}),
        top_logprobs=top_logprobs,
        prompt_logprobs=prompt_logprobs,
        prompt_top_logprobs=prompt_top_logprobs,
        **settings,
    )


def answer_schema(body: GenerationBody) -> str | None:
    """One JSON schema as text, from `response_format` or `json_schema`; both are refused."""
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        own = body.json_schema
        return json.dumps(own) if isinstance(own, dict) else own or None
    if body.json_schema or body.regex or body.lark or body.ebnf:
        text = "response_format excludes json_schema, regex, lark and ebnf; keep one of them."
        raise FieldError(text, param="response_format")
    schema = None if wanted.json_schema is None else wanted.json_schema.schema_
    return schema_of(wanted.type, schema, "response_format", "json_schema.schema")


def schema_of(kind: str, schema: Mapping[str, Any] | None, field: str, place: str) -> str | None:
    """The schema of `kind` text, json_object or json_schema; None leaves the answer free."""
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    if schema is None:
        raise FieldError(f"{field} of type json_schema needs {place}.", param=field)
    return json.dumps(schema)


def texts(value: str | list[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


# -- internals ---------------------------------------------------------------


def _logit_bias(bias: dict[str, float]) -> dict[int, float]:
    for key, value in bias.items():
        if not key.isdecimal() or len(key) > 9 or not -100 <= value <= 100:
            text = f"logit_bias[{key[:40]!r}] is {value}; keys are token ids, values -100 to 100."
            raise FieldError(text, param="logit_bias")
    return {int(key): value for key, value in bias.items()}
