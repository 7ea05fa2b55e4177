"""What is a model told, of its tools, of its mistakes, and of the turns it has left?

    told(slip, tools, form, hints) -> text       what was wrong, then the right form
    instructed(messages, tools) -> messages      with the tools in the system message (FUNCTION)
    turns_left(left) -> text
    shortened(text, limit) -> text               a result that would fill the context

Guidance turns a dead episode into a useful one (SkyRL-Agent, arXiv 2511.16108); `hints` off leaves
only that the turn failed, to measure what the hints are worth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from evolute.agents.parsing import Form, Mistake, Slip, Tools
from evolute.types import Message

EXAMPLES = {
    Form.HERMES: '<tool_call>\n{"name": "NAME", "arguments": {"PARAMETER": VALUE}}\n</tool_call>',
    Form.JSON: '{"name": "NAME", "parameters": {"PARAMETER": VALUE}}',
    Form.FUNCTION: "<function=NAME>\n<parameter=PARAMETER>VALUE</parameter>\n</function>",
}
WITHOUT_HINTS = "That did not work."
ABOUT_THE_FORM = (Mistake.NO_CALL, Mistake.CUT, Mistake.MALFORMED)
MAX_SCHEMA_CHARS = 1500


def told(slip: Slip, tools: Tools, form: Form, *, hints: bool = True) -> str:
    """The answer to a mistake: what was wrong, and what is right."""
    if not hints:
        return WITHOUT_HINTS
    lines = [slip.text]
    if slip.mistake is Mistake.CUT:
        lines.append("Be brief, and write the call first.")
    if slip.mistake in ABOUT_THE_FORM:
        lines.append(f"Write exactly one call, like this:\n{EXAMPLES[form]}")
    if slip.mistake in (*ABOUT_THE_FORM, Mistake.UNKNOWN_TOOL):
        lines.append(f"The tools are: {', '.join(tools)}.")
    if slip.mistake is Mistake.BAD_ARGUMENTS:
        lines.append(f"Its parameters are: {_parameters(slip.tool, tools)}")
    return "\n".join(lines)


def instructed(messages: Sequence[Message], tools: Tools) -> list[Message]:
    """The tools and the FUNCTION form at the end of the system message, put first if none is."""
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools.values()]
    text = (
        "You act by calling functions. Each line is one, as JSON:\n"
        + "\n".join(lines)
        + f"\nTo call one, write:\n{EXAMPLES[Form.FUNCTION]}\nOne call a turn, after which you "
        "are told its result."
    )
    if messages and messages[0]["role"] == "system":
        first = Message(role="system", content=f"{messages[0]['content']}\n\n{text}")
        return [first, *messages[1:]]
    return [Message(role="system", content=text), *messages]


def turns_left(left: int) -> str:
    """`left` counts the turn that follows."""
    if left == 1:
        return "[This is your last turn: give your answer now.]"
    return f"[You have {left} turns left.]"


def shortened(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning, the end, and how much is left out."""
    if limit == 0 or len(text) <= limit:
        return text
    head = limit * 2 // 3
    tail = limit - head
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[{left_out} characters are left out]\n{text[len(text) - tail :]}"


# -- internals ---------------------------------------------------------------


def _parameters(name: str, tools: Tools) -> str:
    schema = tools[name]["function"].get("parameters") or {"type": "object", "properties": {}}
    return json.dumps(schema, ensure_ascii=False)[:MAX_SCHEMA_CHARS]
