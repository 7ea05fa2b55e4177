"""A server under test: where it is, what it is asked, how its answers are read.

target = Target("ours", "http://127.0.0.1:8000")
target = await found(target, connections)      its model's name, asked for
target.body(item), target.headers(tenant)
read(payload, endpoint) -> Piece                what one event says
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evolute.bench.load.connection import Connections, Failure
from evolute.bench.load.words import text_of
from evolute.bench.shapes import WorkItem
from evolute.types import BackendError, ConfigError

Endpoint = Literal["completions", "chat"]
Prompts = Literal["ids", "text"]
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
FIND_S = 10.0  # for a server to name its models


@dataclass(frozen=True, slots=True)
class Target:
    """One server, and how requests are put to it."""

    name: str
    url: str  # http://HOST:PORT, with or without /v1
    model: str = ""  # empty: the first that the server names
    api_keys: tuple[str, ...] = ()  # several: tenants get them in turn
    endpoint: Endpoint = "completions"
    prompts: Prompts = "ids"
    is_streamed: bool = True
    ignore_eos: bool = True
    adapters: tuple[str, ...] = ()  # served names; a workload's adapters get them in turn

    def __post_init__(self) -> None:
        if self.endpoint == "chat" and self.prompts == "ids":
            raise ConfigError("chat takes no token ids; add --prompts text.")

    @property
    def base(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def path(self) -> str:
        return PATHS[self.endpoint]

    def headers(self, tenant: int = 0) -> dict[str, str]:
        if not self.api_keys:
            return {}
        return {"Authorization": f"Bearer {self.api_keys[tenant % len(self.api_keys)]}"}

    def body(self, item: WorkItem, adapter: int | None = None) -> bytes:
        """The request; `adapter` is the number of the item's adapter among the workload's."""
        asked: dict[str, Any] = {"model": self.model, "max_tokens": item.max_new_tokens}
        if adapter is not None and self.adapters:
            asked["model"] = self.adapters[adapter % len(self.adapters)]
        if self.endpoint == "chat":
            asked["messages"] = [{"role": "user", "content": text_of(item.prompt)}]
        else:
            asked["prompt"] = item.prompt if self.prompts == "ids" else text_of(item.prompt)
        asked["temperature"] = 0
        if self.is_streamed:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        if item.json_schema is not None:
            schema = {"name": "answer", "schema": json.loads(item.json_schema), "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.ignore_eos:
            asked["ignore_eos"] = True
        tenant = item.tenant if item.adapter is None or self.adapters else item.adapter
        if tenant != "default":
            asked["user"] = tenant
        return json.dumps(asked, separators=(",", ":")).encode()


async def found(target: Target, connections: Connections) -> Target:
    """The target with its model's name. Raises BackendError when nothing answers there."""
    try:
        async with asyncio.timeout(FIND_S):
            status, text = await connections.fetch("GET", "/v1/models", headers=target.headers())
    except (Failure, TimeoutError) as error:
        raise BackendError(
            f"no server answers at {target.base} ({error or 'no answer'}). Start it, or change "
            "--url."
        ) from None
    if status in (401, 403):
        raise BackendError(f"{target.base} asks for a key (HTTP {status}); add --api-key KEY.")
    if target.model:
        return target
    try:
        return replace(target, model=str(json.loads(text)["data"][0]["id"]))
    except (ValueError, KeyError, IndexError, TypeError):
        raise BackendError(
            f"{target.base}/v1/models names no model (HTTP {status}); add --model NAME."
        ) from None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event, or one whole answer, says."""

    has_token: bool = False  # text, or a call of a tool: not the chunk with the role
    finish_reason: str = ""
    usage: Mapping[str, Any] | None = None
    error: str = ""


def read(payload: bytes | str, endpoint: Endpoint) -> Piece:
    """Raises Failure for what is no answer of an OpenAI-compatible server."""
    try:
        value = json.loads(payload)
        if value.get("error"):
            error = value["error"]
            return Piece(
                error=str(error.get("message") or error if isinstance(error, dict) else error)
            )
        choices: Sequence[Any] = value.get("choices") or ()
        has_token = any(_text(choice, endpoint) for choice in choices)
        reasons = [str(c["finish_reason"]) for c in choices if c.get("finish_reason")]
        return Piece(has_token, reasons[-1] if reasons else "", value.get("usage"))
    except (ValueError, AttributeError, TypeError, KeyError):
        shown = payload[:120]
        raise Failure("bad_answer", f"an event is no chunk of an answer: {shown!r}") from None


def _text(choice: Mapping[str, Any], endpoint: Endpoint) -> bool:
    if endpoint == "completions":
        return bool(choice.get("text") or choice.get("token_ids"))
    delta = choice.get("delta") or choice.get("message") or {}
    return any(
        delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls")
    )
