"""What does a model's turn ask for: one call of a tool, or what is wrong with it?

    read_turn(text, tools, form) -> Turn        thought, words, and a Call or a Slip
    without_thoughts(text)                      what is said beside <think>...</think>

Forms: HERMES and JSON are read by `lang/tools`; FUNCTION is
<function=NAME><parameter=P>VALUE</parameter></function>. A turn is one call: what stands behind the
first one is not read. Every mistake is data that says what was wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evolute.agents.arguments import complaint, read_text
from evolute.lang.tools import Arguments, CallStarted, Text, ToolFormat, parser, toolset_of
from evolute.lang.tools.parsers import CLOSE, MARKERS, OPEN
from evolute.types.settings import nearest

THINK, END_THINK = "<think>", "</think>"
FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
MAX_SHOWN_CHARS = 200
Tools = Mapping[str, Mapping[str, Any]]  # name -> {"type": "function", "function": {...}}


class Form(StrEnum):
    """How calls are written."""

    HERMES = "hermes"
    JSON = "json"
    FUNCTION = "function"


class Mistake(StrEnum):
    """What a model got wrong. Each costs a turn and never the episode."""

    NO_CALL = "no_call"
    CUT = "cut"  # the turn's tokens were used up before the call was whole
    MALFORMED = "malformed"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_ARGUMENTS = "bad_arguments"
    TOOL_ERROR = "tool_error"
    TOOL_TIMEOUT = "tool_timeout"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that fits its tool's schema."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Slip:
    """A mistake, in words for the model; `tool` is set once the name of a known tool was read."""

    mistake: Mistake
    text: str
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """`said` is the text before the call, thoughts apart."""

    said: str
    action: Call | Slip


def read_turn(text: str, tools: Tools, form: Form, *, is_cut: bool = False) -> Turn:
    """`is_cut`: the turn ended because its tokens were used up, so what is torn is no wonder."""
    said = without_thoughts(text)
    if form is Form.FUNCTION:
        words, action = _read_function(said, tools)
    else:
        words, action = _read_lang(said, tools, ToolFormat(form.value))
    if isinstance(action, Slip) and is_cut and _is_torn(action):
        action = Slip(Mistake.CUT, "Your turn was cut off before a call was complete.", action.tool)
    elif isinstance(action, Slip) and not said.strip() and text.strip():
        action = Slip(action.mistake, "After your thoughts there was no call.")
    return Turn(words.strip(), action)


def without_thoughts(text: str) -> str:
    """The text behind the last thought; a thought that never ends hides the rest. Where the
    template opened the thought, the text has only its end."""
    rest = text.rpartition(END_THINK)[2]
    return rest.partition(THINK)[0]


# -- internals ---------------------------------------------------------------


def _is_torn(slip: Slip) -> bool:
    return slip.mistake in (Mistake.NO_CALL, Mistake.MALFORMED)


def _read_lang(text: str, tools: Tools, format: ToolFormat) -> tuple[str, Call | Slip]:
    reader = parser(toolset_of(list(tools.values())), format)
    before, name, arguments = "", None, ""
    for event in [*reader.push(text), *reader.finish()]:
        if isinstance(event, CallStarted):
            if name is not None:
                break
            name = event.name
        elif isinstance(event, Arguments):
            arguments += event.text if event.index == 0 else ""
        elif isinstance(event, Text) and name is None:
            before += event.text
    if OPEN in before and _looks_like_json(before.partition(OPEN)[2]):
        name = None  # a call that is none stands before
    if name is None:
        return text, _why_no_call(text, tools, format)
    return before, _checked(name, arguments, tools)


def _checked(name: str, arguments: str, tools: Tools) -> Call | Slip:
    try:
        given = json.loads(arguments, strict=False)
    except (ValueError, RecursionError) as error:
        return Slip(
            Mistake.MALFORMED,
            f"The arguments of your call of {name} are no JSON: {error}.",
            name,
        )
    return _fitting(name, given, tools)


def _fitting(name: str, given: Any, tools: Tools) -> Call | Slip:
    if not isinstance(given, Mapping):
        text = f"The arguments of {name} must be an object of names and values."
        return Slip(Mistake.BAD_ARGUMENTS, text, name)
    wrong = complaint(given, _schema(tools[name]))
    if wrong is not None:
        return Slip(Mistake.BAD_ARGUMENTS, f"In your call of {name}, {wrong}.", name)
    return Call(name, given)


def _schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters: Mapping[str, Any] | None = tool["function"].get("parameters")
    return parameters or {"type": "object", "properties": {}}


def _why_no_call(text: str, tools: Tools, format: ToolFormat) -> Slip:
    """The parser found no call of a known tool: what did the model mean to write?"""
    if format is ToolFormat.HERMES and OPEN in text:
        return _why_no_object(text.partition(OPEN)[2].partition(CLOSE)[0], tools, "between tags")
    bare = text.strip()
    for marker in MARKERS:
        bare = bare.removeprefix(marker).strip()
    if FUNCTION in text or (format is ToolFormat.JSON and OPEN in text):
        return Slip(Mistake.MALFORMED, "Your call was not written in the form that is read here.")
    if not _looks_like_json(bare) or '"name"' not in bare:
        return Slip(Mistake.NO_CALL, "Your answer had no call of a tool.")
    if format is ToolFormat.JSON:
        return _why_no_object(bare, tools, "in your answer")
    text = f"Your call did not stand between {OPEN} and {CLOSE}."
    return Slip(Mistake.MALFORMED, text)


def _why_no_object(body: str, tools: Tools, where: str) -> Slip:
    body = body.strip()
    try:
        found = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        return Slip(Mistake.MALFORMED, f"What stands {where} is no JSON: {error}. ")
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        return Slip(Mistake.MALFORMED, 'Your call has no "name" with the name of a tool.')
    if found["name"] not in tools:
        return _unknown(found["name"], tools)
    return Slip(Mistake.MALFORMED, "Your call is not one object of name and arguments.")


def _unknown(name: str, tools: Tools) -> Slip:
    shown = name[:MAX_SHOWN_CHARS]
    return Slip(Mistake.UNKNOWN_TOOL, f"There is no tool {shown!r}. {nearest(shown, tools)}")


def _looks_like_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "["))


def _read_function(text: str, tools: Tools) -> tuple[str, Call | Slip]:
    before, opened, rest = text.partition(FUNCTION)
    if not opened:
        if OPEN in text:
            wrong = "Your call was not written in the form that is read here."
            return text, Slip(Mistake.MALFORMED, wrong)
        return text, Slip(Mistake.NO_CALL, "Your answer had no call of a tool.")
    name, closed, body = rest.partition(">")
    name = name.strip()
    if not closed or "\n" in name or "<" in name:
        return before, Slip(Mistake.MALFORMED, f"{FUNCTION} is not followed by a name and >.")
    if name not in tools:
        return before, _unknown(name, tools)
    values = _parameters(body)
    if isinstance(values, str):
        return before, Slip(Mistake.MALFORMED, values, name)
    schema = _schema(tools[name])
    known = schema.get("properties", {})
    given = {key: read_text(value, known.get(key, True), schema) for key, value in values.items()}
    return before, _fitting(name, given, tools)


def _parameters(body: str) -> dict[str, str] | str:
    """Texts by name, or what is wrong. One line break at each end of a value is none of it; an
    end of the function that a stop string has taken is forgiven."""
    values: dict[str, str] = {}
    rest = body.lstrip()
    while rest.startswith(PARAMETER):
        name, closed, rest = rest.removeprefix(PARAMETER).partition(">")
        name = name.strip()
        if not closed or not re.fullmatch(r"[^\s<>]+", name):
            return f"{PARAMETER} is not followed by a name and >."
        value, ended, rest = rest.partition(END_PARAMETER)
        if not ended:
            return f"Parameter {name} has no {END_PARAMETER}."
        if name in values:
            return f"Parameter {name} is there twice."
        values[name] = value.removeprefix("\n").removesuffix("\n")
        rest = rest.lstrip()
    if rest.startswith(END_FUNCTION) or END_FUNCTION.startswith(rest.rstrip()):
        return values
    return f"{rest[:40]!r} stands where a parameter or {END_FUNCTION} should."
