"""Chat messages and tools as OpenAI's API writes them, read and checked.

read_messages(list) -> list[Message]
read_toolset(tools, tool_choice, parallel) -> Toolset
text_of(content, where)                     a text, or parts of type text joined
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evolute.lang.tools import Choice, Tool, Toolset
from evolute.server.bodies import parse_arguments
from evolute.server.errors import FieldError, not_supported, unreadable
from evolute.types import Message

ROLES = ("assistant", "developer", "system", "tool", "user")
# `parsed` is what a client read out of the content beside it, so it says nothing more
OWN_FIELDS = {"assistant": {"tool_calls", "parsed"}, "tool": {"tool_call_id", "name"}}
FOREIGN_PARTS = (
    "image_url", "input_image", "video_url", "audio_url", "input_audio", "file", "input_file",
)  # fmt: skip


def read_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Raises FieldError naming the message and the field."""
    if not messages:
        raise FieldError("messages is empty; send at least one.", param="messages")
    name_by_id: dict[str, str] = {}  # of the calls so far
    read = []
    for i, message in enumerate(messages):
        read.append(_message(message, f"messages[{i}]", name_by_id))
        name_by_id |= {c["id"]: c["function"]["name"] for c in read[-1].get("tool_calls", [])}
    return read


def read_toolset(tools: Sequence[Any] | None, choice: Any, parallel: bool | None) -> Toolset:
    """Chat's form of tools: {"type": "function", "function": {...}}."""
    read = []
    for i, tool in enumerate(tools or ()):
        where = f"tools[{i}]"
        check_type(tool, "function", where)
        check_keys(tool, ("type", "function"), where)
        read.append(read_function(tool.get("function"), f"{where}.function"))
    kind, named = read_choice(choice, lambda value: value.get("function"))
    return Toolset.of(read, kind, named, parallel=parallel is not False)


def read_choice(choice: Any, function_of: Any) -> tuple[Choice | None, str]:
    """What `tool_choice` asks for; `function_of` finds the named function in an object."""
    if choice is None:
        return None, ""
    if isinstance(choice, str) and choice in ("none", "auto", "required"):
        return Choice(choice), ""
    if isinstance(choice, Mapping):
        check_type(choice, "function", "tool_choice")
        function = function_of(choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            return Choice.NAMED, name
    text = "tool_choice must be none, auto, required, or an object that names a function."
    raise FieldError(text, param="tool_choice")


def read_function(function: Any, where: str) -> Tool:
    if not isinstance(function, Mapping):
        raise FieldError(f"{where} must be an object with a name.", param=where)
    check_keys(function, ("name", "description", "parameters", "strict", "type"), where)
    return Tool(
        name=_typed(function, "name", str, where) or "",
        description=_typed(function, "description", str, where) or "",
        parameters=_typed(function, "parameters", Mapping, where),
        strict=bool(_typed(function, "strict", bool, where)),
    )


def text_of(
    content: Any, where: str, *, kinds: Collection[str] = ("text",), is_optional: bool = False
) -> str:
    """Raises FieldError for what is no text, 501 for pictures and sounds."""
    if isinstance(content, str):
        return content
    if content is None and is_optional:
        return ""
    if not isinstance(content, list):
        text = f"{where}.content must be a text or a list of parts."
        raise FieldError(text, param=f"{where}.content")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in FOREIGN_PARTS:
            raise unreadable(f"{where}.content", kind)
        if kind not in kinds or not isinstance(part.get("text"), str) or _more(part):
            text = (
                f'{where}.content: a part must be {{"type": "{next(iter(kinds))}", "text": ...}}.'
            )
            raise FieldError(text, param=f"{where}.content")
        texts.append(part["text"])
    return "".join(texts)


def check_type(value: Any, expected: str, where: str) -> None:
    """Raises FieldError: the other kinds that OpenAI's API has are named as not supported."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == expected:
        return
    if isinstance(kind, str):
        raise not_supported(where, f"only type {expected!r} is, not {kind!r}.")
    raise FieldError(f"{where} must be an object of type {expected!r}.", param=where)


def check_keys(value: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for name, inner in value.items():
        if name not in known and inner is not None:
            text = f"{where}.{name} is not known; known are {', '.join(known)}."
            raise FieldError(text, param=f"{where}.{name}", code="unknown_field")


# -- internals ---------------------------------------------------------------


def _more(part: Mapping[str, Any]) -> bool:
    """A part says more than its text; answers sent back carry empty lists."""
    return any(v not in (None, []) for k, v in part.items() if k not in ("type", "text"))


def _message(message: Mapping[str, Any], where: str, name_by_id: Mapping[str, str]) -> Message:
    role = message.get("role")
    if role not in ROLES:
        text = f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}."
        raise FieldError(text, param=f"{where}.role")
    known = {"role", "content"} | OWN_FIELDS.get(role, set())
    for name, value in message.items():  # clients echo answers back with null and empty fields
        if name not in known and value is not None and value != []:
            raise not_supported(
                f"{where}.{name}", f"a message of role {role} has no such field here."
            )
    content = text_of(message.get("content"), where, is_optional=role == "assistant")
    read = Message(role="system" if role == "developer" else role, content=content)
    calls = message.get("tool_calls")
    if role == "assistant" and calls:
        if not isinstance(calls, list):
            raise FieldError(f"{where}.tool_calls must be a list.", param=f"{where}.tool_calls")
        read["tool_calls"] = [_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)]
    if role == "tool":
        _add_source(read, message, where, name_by_id)
    return read


def _add_source(
    read: Message, message: Mapping[str, Any], where: str, name_by_id: Mapping[str, str]
) -> None:
    """Whose result a tool's message is."""
    id = _typed(message, "tool_call_id", str, where)
    name = _typed(message, "name", str, where)
    if id is not None and id not in name_by_id:
        text = f"{where}.tool_call_id is {id!r}; no earlier message has a call with that id."
        raise FieldError(text, param=f"{where}.tool_call_id")
    name = name or name_by_id.get(id or "")
    if id is not None:
        read["tool_call_id"] = id
    if name is not None:
        read["name"] = name


def _call(call: Any, where: str) -> dict[str, Any]:
    check_type(call, "function", where)
    check_keys(call, ("id", "type", "function", "index"), where)
    function, id = call.get("function"), call.get("id")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not isinstance(id, str):
        text = f"{where} needs an id and a function with name and arguments."
        raise FieldError(text, param=where)
    arguments = parse_arguments(function.get("arguments"), f"{where}.function.arguments")
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _typed(value: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
    found = value.get(name)
    if found is not None and not isinstance(found, kind):
        words = {str: "a text", bool: "true or false"}.get(kind, "an object")
        raise FieldError(f"{where}.{name} must be {words}.", param=f"{where}.{name}")
    return found
