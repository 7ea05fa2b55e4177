"""The body of POST /v1/responses.

sampling_of(body, toolset, ...) -> SamplingParams
toolset_of(body) -> Toolset
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from evolute.lang.tools import Toolset
from evolute.server.bodies import Many, Strict, StrictBody
from evolute.server.errors import FieldError, not_supported
from evolute.server.openai.bodies import schema_of, texts
from evolute.server.openai.messages import check_type, read_choice, read_function
from evolute.server.shapes import FLAT_CHOICE, FUNCTIONS, ITEMS
from evolute.types import SamplingParams
from evolute.types.request import MAX_DEADLINE_S
from evolute.types.sampling import MAX_TOP_LOGPROBS

LOGPROBS = "message.output_text.logprobs"
MAX_METADATA = 16
STREAMED = (
    {"include_obfuscation": False},
    {"include_usage": True},
    {"include_obfuscation": False, "include_usage": True},
)
TRIVIAL: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "conversation": (),
    "context_management": ([],),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning": ({}, {"effort": None}, {"effort": "none"}),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    # usage is always told, with the last event
    "stream_options": ({}, *STREAMED),
    "truncation": ("disabled",),
}
UNIONS = {
    "stop": "a text or a list of texts",
    "input": "a text or a list of items",
    "tool_choice": "none, auto, required, or an object that names a function",
}


class TextFormat(Strict):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None  # always strict here: the output cannot leave the schema


class TextOptions(Strict):
    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponseBody(StrictBody):
    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = TRIVIAL
    unions: ClassVar[Mapping[str, str]] = UNIONS

    model: str = "default"
    input: str | ITEMS
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    include: Many[str] | None = None
    text: TextOptions | None = None
    tools: FUNCTIONS | None = None
    tool_choice: FLAT_CHOICE | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    user: str | None = None  # the tenant who is billed for fairness
    deadline_s: float | None = Field(None, ge=0, le=MAX_DEADLINE_S)  # ours: to the first token
    prompt_cache_key: str | None = None  # a hint: where several engines serve, to the same one
    metadata: dict[str, str] | None = None  # given back as it came
    # ours, with the names that the other endpoints have
    stop: str | Many[str] | None = None
    ignore_eos: bool | None = None

    @property
    def format(self) -> TextFormat:
        return (self.text and self.text.format) or TextFormat.model_validate({})

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())


def check(body: ResponseBody) -> None:
    """What holds between fields. Raises FieldError."""
    for name in body.include or ():
        if name != LOGPROBS:
            raise not_supported("include", f"only {LOGPROBS!r} is, not {name!r}.")
    if body.top_logprobs and not body.wants_logprobs:
        text = f"top_logprobs needs include=[{LOGPROBS!r}]."
        raise FieldError(text, param="top_logprobs")
    if len(body.metadata or ()) > MAX_METADATA:
        text = f"metadata has {len(body.metadata or ())} entries; at most {MAX_METADATA} are kept."
        raise FieldError(text, param="metadata")


def toolset_of(body: ResponseBody) -> Toolset:
    """Tools are written flat here: {"type": "function", "name", "parameters"}."""
    tools = []
    for i, tool in enumerate(body.tools or ()):
        check_type(tool, "function", f"tools[{i}]")
        tools.append(read_function(tool, f"tools[{i}]"))
    choice, named = read_choice(body.tool_choice, lambda value: value)
    return Toolset.of(
        tools,
        choice,
        named,
        parallel=body.parallel_tool_calls is not False,
        names_at="tools[{}].name",
        schemas_at="tools[{}].parameters",
    )


def answer_schema(body: ResponseBody) -> str | None:
    return schema_of(body.format.type, body.format.schema_, "text.format", "a schema")


def sampling_of(
    body: ResponseBody,
    grammar: Mapping[str, str],
    *,
    max_new_tokens: int,
    skip_special_tokens: bool,
) -> SamplingParams:
    settings: dict[str, Any] = {**grammar, "stop": texts(body.stop)}
    for name in ("temperature", "top_p", "ignore_eos"):
        if getattr(body, name) is not None:
            settings[name] = getattr(body, name)
    return SamplingParams(
        max_new_tokens=max_new_tokens,
        top_logprobs=body.top_logprobs or 0,
        skip_special_tokens=skip_special_tokens,
        **settings,
    )
