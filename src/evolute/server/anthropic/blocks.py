"""Messages of content blocks as our messages.

    conversation_of(body, toolset) -> Conversation

Text and calls of an assistant are one message; a user's tool results become messages of the
role tool, in their order. A last message of the assistant's is one to be continued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolute.lang.tools import Toolset
from evolute.server.anthropic.body import CACHE_HINTS, CountBody
from evolute.server.conversation import Conversation
from evolute.server.errors import FieldError, not_supported, unreadable
from evolute.types import Message

MEDIA = ("image", "document")
ROLES = ("user", "assistant", "system")
FIELDS = {
    "text": {"text"},
    "tool_use": {"id", "name", "input", "caller"},
    "tool_result": {"tool_use_id", "content", "is_error"},
}


def conversation_of(body: CountBody, toolset: Toolset) -> Conversation:
    """Raises FieldError naming the message and the block."""
    if not body.messages:
        raise FieldError("messages is empty; send at least one.", param="messages")
    messages: list[Message] = []
    if body.system:
        messages.append(Message(role="system", content=_text(body.system, "system")))
    for i, message in enumerate(body.messages):
        _add(message, f"messages[{i}]", messages)
    is_open = messages[-1]["role"] == "assistant"
    if is_open and messages[-1].get("tool_calls"):
        text = "the last message calls tools; send their results as tool_result blocks."
        raise FieldError(text, param="messages")
    return Conversation(messages, toolset, is_open=is_open)


# -- internals ---------------------------------------------------------------


def _add(message: Mapping[str, Any], where: str, messages: list[Message]) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or set(message) - {"role", "content"}:
        text = f"{where} must have a role of {', '.join(ROLES)}, a content, and nothing else."
        raise FieldError(text, param=where)
    if role == "system" or isinstance(content, str):
        messages.append(Message(role=role, content=_text(content, f"{where}.content")))
    elif not isinstance(content, list) or not content:
        text = f"{where}.content must be a text or a list of blocks, and not empty."
        raise FieldError(text, param=f"{where}.content")
    elif role == "assistant":
        messages.append(_assistant(content, f"{where}.content"))
    else:
        for i, block in enumerate(content):
            _add_of_user(block, f"{where}.content[{i}]", messages, is_first=i == 0)


def _assistant(content: Sequence[Any], where: str) -> Message:
    texts, calls = [], []
    for i, block in enumerate(content):
        kind = _kind(block, ("text", "tool_use"), f"{where}[{i}]")
        if kind == "text":
            texts.append(block["text"])
        else:
            calls.append(_call(block, f"{where}[{i}]"))
    read = Message(role="assistant", content="".join(texts))
    if calls:
        read["tool_calls"] = calls
    return read


def _add_of_user(block: Any, where: str, messages: list[Message], *, is_first: bool) -> None:
    if _kind(block, ("text", "tool_result"), where) == "tool_result":
        messages.append(_result(block, where, messages))
    elif not is_first and messages[-1]["role"] == "user":
        last = messages[-1]
        messages[-1] = Message(role="user", content=last["content"] + block["text"])
    else:
        messages.append(Message(role="user", content=block["text"]))


def _kind(block: Any, allowed: Sequence[str], where: str) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(kind, str):
        raise FieldError(f"{where} must be an object with a type.", param=where)
    if kind in MEDIA:
        raise unreadable(where, kind)
    if kind not in allowed:
        raise not_supported(where, f"blocks here are {' or '.join(allowed)}, not {kind!r}.")
    if kind == "text" and not isinstance(block.get("text"), str):
        raise FieldError(f"{where}.text must be a text.", param=f"{where}.text")
    if block.get("cache_control") not in (None, *CACHE_HINTS):
        raise not_supported(f"{where}.cache_control", "only type ephemeral is.")
    for name in set(block) - FIELDS[kind] - {"type", "cache_control"}:
        if block[name] not in (None, []):
            raise not_supported(f"{where}.{name}", "this server cannot do it; leave it out.")
    return kind


def _text(content: Any, where: str) -> str:
    """A text, or text blocks joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise FieldError(f"{where} must be a text or a list of text blocks.", param=where)
    for i, block in enumerate(content):
        _kind(block, ("text",), f"{where}[{i}]")
    return "".join(block["text"] for block in content)


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    id, name, given = block.get("id"), block.get("name"), block.get("input")
    if not isinstance(id, str) or not isinstance(name, str) or not isinstance(given, dict):
        text = f"{where} needs an id, a name, and an input that is an object."
        raise FieldError(text, param=where)
    return {"id": id, "type": "function", "function": {"name": name, "arguments": given}}


def _result(block: Mapping[str, Any], where: str, messages: Sequence[Message]) -> Message:
    id = block.get("tool_use_id")
    names = {
        call["id"]: call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls", [])
    }
    if not isinstance(id, str) or id not in names:
        text = f"{where}.tool_use_id is {id!r}; no earlier block is a call with that id."
        raise FieldError(text, param=f"{where}.tool_use_id")
    content = _text(block.get("content") or "", f"{where}.content")
    if block.get("is_error"):
        content = f"Error: {content}"  # templates have no other place to say so
    return Message(role="tool", content=content, tool_call_id=id, name=names[id])
