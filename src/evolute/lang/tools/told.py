"""How is a model told of tools whose chat template does not know them?

    in_text(messages, toolset) -> messages       plain ones, with the tools' text in them

In the Hermes form: the tools at the end of the system message, calls as <tool_call> in the
assistant's turn, results as <tool_response> in a user's turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evolute.lang.tools.parsers import CLOSE, OPEN
from evolute.lang.tools.toolset import Toolset
from evolute.types import Message

TOLD = (
    "You may call functions. Each line between <tools> and </tools> is one, as JSON:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call one, write its name and its arguments as one JSON object between tags:\n"
    f'{OPEN}\n{{{{"name": NAME, "arguments": {{{{...}}}}}}}}\n{CLOSE}'
)


def in_text(messages: Sequence[Message], toolset: Toolset) -> list[Message]:
    """Messages with nothing but roles and texts. A system message is put first if there is none."""
    told = [_plain(message) for message in messages]
    if not toolset.offered:
        return told
    lines = "\n".join(json.dumps(tool.as_json(), ensure_ascii=False) for tool in toolset.offered)
    text = TOLD.format(tools=lines)
    if told and told[0]["role"] == "system":
        first = Message(role="system", content=f"{told[0]['content']}\n\n{text}")
        return [first, *told[1:]]
    return [Message(role="system", content=text), *told]


# -- internals ---------------------------------------------------------------


def _plain(message: Message) -> Message:
    """A message whose calls and results stand in its text."""
    content = message["content"]
    if message["role"] == "tool":
        return Message(role="user", content=f"<tool_response>\n{content}\n</tool_response>")
    calls = [_call(call["function"]) for call in message.get("tool_calls", [])]
    return Message(
        role=message["role"], content="\n".join([*([content] if content else []), *calls])
    )


def _call(function: Mapping[str, Any]) -> str:
    written = {"name": function["name"], "arguments": function["arguments"]}
    return f"{OPEN}\n{json.dumps(written, ensure_ascii=False)}\n{CLOSE}"
