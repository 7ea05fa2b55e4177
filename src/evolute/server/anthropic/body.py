"""Bodies of /v1/messages and /v1/messages/count_tokens.

sampling_of(body, toolset, ...) -> SamplingParams
toolset_of(body) -> Toolset
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from evolute.lang.tools import Choice, Tool, Toolset
from evolute.server.bodies import Many, Strict, StrictBody
from evolute.server.errors import FieldError, not_supported
from evolute.server.shapes import BLOCK_MESSAGES, OWN_CHOICE, OWN_TOOLS, SYSTEM
from evolute.types import SamplingParams
from evolute.types.request import MAX_DEADLINE_S

CACHE_HINTS = ({"type": "ephemeral"}, {"type": "ephemeral", "ttl": "5m"})  # we cache without
TOOL_FIELDS = {"type", "name", "description", "input_schema", "strict", "cache_control"}
TRIVIAL: dict[str, tuple[Any, ...]] = {
    "cache_control": CACHE_HINTS,
    "container": (),
    "context_management": (),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "thinking": ({"type": "disabled"},),
    "thread": (),  # of the client's tool runner, which goes on without when it is told so
    "user_profile_id": (),
    "workspace_id": (),
}


class OutputFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Strict):
    format: OutputFormat | None = None
    effort: str | None = None


class Metadata(Strict):
    user_id: str | None = None  # the tenant who is billed for fairness


class CountBody(StrictBody):
    """What is said to the model."""

    trivial: ClassVar[Mapping[str, tuple[Any, ...]]] = TRIVIAL
    unions: ClassVar[Mapping[str, str]] = {"system": "a text or a list of text blocks"}

    model: str = "default"
    messages: BLOCK_MESSAGES
    system: str | SYSTEM | None = None
    tools: OWN_TOOLS | None = None
    tool_choice: OWN_CHOICE | None = None
    output_config: OutputConfig | None = None


class MessagesBody(CountBody):
    max_tokens: int = Field(ge=1)
    metadata: Metadata | None = None
    stop_sequences: Many[str] | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_k: int | None = Field(None, ge=0)  # 0: off
    top_p: float | None = Field(None, gt=0, le=1)
    deadline_s: float | None = Field(None, ge=0, le=MAX_DEADLINE_S)  # ours: to the first token


def toolset_of(body: CountBody) -> Toolset:
    """Raises FieldError for tools that are not the client's own, and for what cannot be."""
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ())]
    choice, named, parallel = _choice(body.tool_choice)
    return Toolset.of(
        tools,
        choice,
        named,
        parallel=parallel,
        names_at="tools[{}].name",
        schemas_at="tools[{}].input_schema",
    )


def answer_schema(body: CountBody) -> str | None:
    """The JSON schema of the answer, as text. Raises FieldError for an effort."""
    config = body.output_config
    if config is None:
        return None
    if config.effort is not None:
        raise not_supported("output_config.effort", "this server cannot do it; leave it out.")
    return None if config.format is None else json.dumps(config.format.schema_)


def sampling_of(
    body: MessagesBody, grammar: Mapping[str, str], *, skip_special_tokens: bool
) -> SamplingParams:
    settings: dict[str, Any] = dict(grammar)
    for name, value in (("temperature", body.temperature), ("top_p", body.top_p)):
        if value is not None:
            settings[name] = value
    return SamplingParams(
        max_new_tokens=body.max_tokens,
        top_k=body.top_k or 0,
        stop=tuple(body.stop_sequences or ()),
        skip_special_tokens=skip_special_tokens,
        **settings,
    )


# -- internals ---------------------------------------------------------------


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    kind = tool.get("type") or "custom"
    if kind != "custom":
        raise not_supported(where, f"only tools of the client's own are, not {kind!r}.")
    for name, value in tool.items():
        if name not in TOOL_FIELDS and value is not None:
            raise not_supported(f"{where}.{name}", "this server cannot do it; leave it out.")
    if tool.get("cache_control") not in (None, *CACHE_HINTS):
        raise not_supported(f"{where}.cache_control", "only type ephemeral is.")
    kinds: dict[str, Any] = {"name": str, "input_schema": Mapping}
    for name, expected in kinds.items():
        if not isinstance(tool.get(name), expected):
            words = "a text" if expected is str else "an object"
            raise FieldError(f"{where}.{name} must be {words}.", param=f"{where}.{name}")
    description, strict = tool.get("description"), tool.get("strict")
    if not isinstance(description, str | None) or not isinstance(strict, bool | None):
        text = f"{where}: description must be a text, and strict true or false."
        raise FieldError(text, param=where)
    return Tool(tool["name"], description or "", tool["input_schema"], bool(strict))


def _choice(given: Mapping[str, Any] | None) -> tuple[Choice | None, str, bool]:
    """Choice, name, and whether several calls may be made at once."""
    if given is None:
        return None, "", True
    kinds = {
        "auto": Choice.AUTO,
        "any": Choice.REQUIRED,
        "tool": Choice.NAMED,
        "none": Choice.NONE,
    }
    kind, name = given.get("type"), given.get("name")
    alone = given.get("disable_parallel_tool_use", False)
    known = {"type", "disable_parallel_tool_use"} | ({"name"} if kind == "tool" else set())
    is_named = isinstance(name, str) or kind != "tool"
    if kind not in list(kinds) or not is_named or not isinstance(alone, bool) or set(given) - known:
        text = (
            "tool_choice must be an object of type auto, any, tool (with a name) or none, perhaps "
            "with disable_parallel_tool_use."
        )
        raise FieldError(text, param="tool_choice")
    return kinds[kind], name or "", not alone
