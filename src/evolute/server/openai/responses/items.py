"""The items of a response's input as messages.

    read_input(input, earlier) -> list[Message]       `earlier` is the conversation so far

A call belongs to the assistant's message before it, as chat templates expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evolute.server.bodies import parse_arguments
from evolute.server.errors import FieldError, not_supported
from evolute.server.openai.messages import check_keys, text_of
from evolute.types import Message

ROLES = ("user", "assistant", "system", "developer")


def read_input(
    input: str | Sequence[Mapping[str, Any]], earlier: Sequence[Message]
) -> list[Message]:
    """Raises FieldError naming the item. `earlier` is not changed."""
    messages = list(earlier)
    if isinstance(input, str):
        return [*messages, Message(role="user", content=input)]
    if not input:
        raise FieldError("input is empty; send a text or at least one item.", param="input")
    for i, item in enumerate(input):
        _add(item, f"input[{i}]", messages)
    return messages


def with_instructions(instructions: str | None, messages: Sequence[Message]) -> list[Message]:
    """One system message in front: templates often know no second one."""
    texts = [instructions] if instructions else []
    rest = list(messages)
    while rest and rest[0]["role"] == "system":
        texts.append(rest.pop(0)["content"])
    return [Message(role="system", content="\n\n".join(texts)), *rest] if texts else rest


def add_call(messages: list[Message], id: str, name: str, arguments: dict[str, Any]) -> None:
    """The call becomes part of the assistant's message that ends `messages`, or of a new one."""
    call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if messages and messages[-1]["role"] == "assistant":
        last: Any = dict(messages[-1])
        messages[-1] = last
    else:
        last = Message(role="assistant", content="")
        messages.append(last)
    last["tool_calls"] = [*last.get("tool_calls", []), call]


# -- internals ---------------------------------------------------------------


def _add(item: Mapping[str, Any], where: str, messages: list[Message]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(_message(item, where))
    elif kind == "function_call":
        check_keys(item, ("type", "id", "call_id", "name", "arguments", "status"), where)
        arguments = parse_arguments(item.get("arguments"), f"{where}.arguments")
        add_call(messages, _text(item, "call_id", where), _text(item, "name", where), arguments)
    elif kind == "function_call_output":
        check_keys(item, ("type", "id", "call_id", "output", "status"), where)
        messages.append(_result(item, where, messages))
    else:
        raise not_supported(where, f"items of type {kind!r} are not read here.")


def _message(item: Mapping[str, Any], where: str) -> Message:
    check_keys(item, ("type", "role", "content", "id", "status", "phase"), where)
    role = item.get("role")
    if role not in ROLES:
        text = f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}."
        raise FieldError(text, param=f"{where}.role")
    kinds = ("output_text",) if role == "assistant" else ("input_text",)
    content = text_of(item.get("content"), where, kinds=kinds)
    return Message(role="system" if role == "developer" else role, content=content)


def _result(item: Mapping[str, Any], where: str, messages: Sequence[Message]) -> Message:
    id = _text(item, "call_id", where)
    names = {
        call["id"]: call["function"]["name"]
        for message in messages
        for call in message.get("tool_calls", [])
    }
    if id not in names:
        text = f"{where}.call_id is {id!r}; no earlier item is a call with that id."
        raise FieldError(text, param=f"{where}.call_id")
    output = text_of(item.get("output"), f"{where}.output", kinds=("input_text",))
    return Message(role="tool", content=output, tool_call_id=id, name=names[id])


def _text(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise FieldError(f"{where}.{name} must be a text.", param=f"{where}.{name}")
    return value
