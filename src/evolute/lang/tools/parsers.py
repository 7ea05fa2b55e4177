"""A model's answer as text and calls: one incremental automaton per format.

    format_of(tokenizer) -> ToolFormat               by the model's own chat template
    parser(toolset, format) -> Parser                for one answer
    hides_tags(tokenizer, format) -> bool            its tags are control tokens

    HERMES    text <tool_call>{"name": ..., "arguments": {...}}</tool_call> text ...
    JSON      [{"name": ..., "parameters": {...}}, ...], one object, or several after one another;
              perhaps behind one of MARKERS

Each character is looked at once and alone, so how a text was cut cannot matter. What turns out
to be no call of a tool that was offered is text, to the letter. White space beside a call is
neither.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from evolute.lang.tools.call_scanner import SPACE, CallScanner, State
from evolute.lang.tools.events import Arguments, CallStarted, Event, Parser, Text, merged
from evolute.lang.tools.toolset import Choice, Toolset
from evolute.types import Tokenizer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKERS = ("functools", "<|python_tag|>", "[TOOL_CALLS]")


class ToolFormat(StrEnum):
    HERMES = "hermes"
    JSON = "json"


def format_of(tokenizer: Tokenizer) -> ToolFormat:
    """HERMES unless the template shows calls as bare JSON; templates without tools get ours."""
    source = getattr(getattr(tokenizer, "template", None), "source", "")
    reads_tools = "tools" in getattr(tokenizer, "template_variables", ())
    return ToolFormat.JSON if reads_tools and OPEN not in source else ToolFormat.HERMES


def hides_tags(tokenizer: Tokenizer, format: ToolFormat) -> bool:
    """True when a text without control tokens would lack the tags of the calls."""
    marks = (OPEN,) if format is ToolFormat.HERMES else MARKERS[1:]
    ids = [tokenizer.encode(mark) for mark in marks]
    return any(len(each) == 1 and not tokenizer.decode(each) for each in ids)


def parser(toolset: Toolset, format: ToolFormat) -> Parser:
    names = toolset.names
    if toolset.choice is Choice.NONE:
        return PlainText()
    if toolset.choice is Choice.NAMED:
        return NamedCall(toolset.named)
    if toolset.choice is Choice.REQUIRED or format is ToolFormat.JSON:
        return JsonCalls(names, parallel=toolset.parallel)
    return TaggedCalls(names, parallel=toolset.parallel)


class PlainText:
    """All is text."""

    def push(self, text: str) -> list[Event]:
        return [Text(text)] if text else []

    def finish(self) -> list[Event]:
        return []


class NamedCall:
    """All is the arguments of one call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_started = False

    def push(self, text: str) -> list[Event]:
        if not text:
            return []
        return [*self.finish(), Arguments(0, text)]

    def finish(self) -> list[Event]:
        started: list[Event] = [] if self._has_started else [CallStarted(0, self._name)]
        self._has_started = True
        return started


class TaggedCalls:
    """Calls between tags. A missing end tag is forgiven; several calls in one pair of tags too.

    With `parallel` off, nothing after the first call is read.
    """

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self._text = _Prose()
        self._names, self._parallel = names, parallel
        self._num_calls = 0
        self._tag = ""  # what may become a tag
        self._scanner: CallScanner | None = None
        self._raw: list[str] = []  # since the open tag; text, should it be no call
        self._is_behind = False  # a call was read and its end tag was not

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        for char in text:
            if self._is_over:
                break
            events += self._step(char)
        return merged(events)

    def finish(self) -> list[Event]:
        if self._scanner is not None:
            has_started = self._scanner.has_started
            rest = "" if has_started else "".join(self._raw)
        else:
            rest = "" if self._is_behind else self._tag
        self._scanner, self._tag = None, ""
        return merged([*self._text.push(rest), *self._text.finish()])

    @property
    def _is_over(self) -> bool:
        return self._is_behind and not self._parallel

    def _step(self, char: str) -> list[Event]:
        if self._scanner is not None:
            return self._call(self._scanner, char)
        tags = (OPEN, CLOSE) if self._is_behind else (OPEN,)
        self._tag += char
        if self._tag in tags:
            opens, self._tag = self._tag == OPEN, ""
            self._is_behind = False
            if opens:
                self._begin([OPEN])
            return []
        if any(tag.startswith(self._tag) for tag in tags):
            return []
        return self._no_tag(char)

    def _no_tag(self, char: str) -> list[Event]:
        """The last character broke what looked like a tag; it may begin one itself."""
        keep = char if char == "<" else ""
        plain, self._tag = self._tag[: len(self._tag) - len(keep)], keep
        if not self._is_behind:
            return self._text.push(plain)
        if char == "{":
            self._begin([])
            assert self._scanner is not None
            return self._call(self._scanner, char)
        return []

    def _begin(self, raw: list[str]) -> None:
        self._scanner = CallScanner(self._num_calls, self._names)
        self._raw, self._tag = raw, ""

    def _call(self, scanner: CallScanner, char: str) -> list[Event]:
        self._raw.append(char)
        had_started = scanner.has_started
        events = scanner.push(char)
        if scanner.has_started and not had_started:
            self._num_calls += 1
            self._text.drop_space()
        if scanner.state not in (State.DONE, State.BAD):
            return events
        self._scanner = None
        if scanner.has_started:
            self._is_behind = True
            return events
        self._is_behind = False
        self._raw.pop()
        return self._text.push("".join(self._raw)) + self._step(char)


class JsonCalls:
    """The answer is calls from its first character on, or it is text."""

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self._text = _Prose()
        self._names, self._parallel = names, parallel
        self._num_calls = 0
        self._head = ""  # what stands before the first object
        self._scanner: CallScanner | None = None
        self._raw: list[str] = []
        self._is_text = False

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        for char in text:
            if self._num_calls and self._scanner is None and not self._parallel:
                break
            events += self._step(char)
        return merged(events)

    def finish(self) -> list[Event]:
        rest = "" if self._num_calls else self._head
        if self._scanner is not None and not self._scanner.has_started:
            rest += "".join(self._raw)
        self._head, self._scanner = "", None
        return merged([*self._text.push(rest), *self._text.finish()])

    def _step(self, char: str) -> list[Event]:
        if self._is_text:
            return self._text.push(char)
        if self._scanner is not None:
            return self._call(self._scanner, char)
        if char == "{" and (self._num_calls or _is_whole(self._head.strip(SPACE))):
            self._scanner, self._raw = CallScanner(self._num_calls, self._names), []
            return self._call(self._scanner, char)
        if self._num_calls:
            return [] if char in SPACE or char in "[],;" else self._is_text_now(char)
        self._head += char
        head = self._head.strip(SPACE)
        if _is_whole(head) or any(marker.startswith(head) for marker in MARKERS):
            return []
        head, self._head = self._head, ""
        return self._is_text_now(head)

    def _call(self, scanner: CallScanner, char: str) -> list[Event]:
        self._raw.append(char)
        had_started = scanner.has_started
        events = scanner.push(char)
        if scanner.has_started and not had_started:
            self._num_calls += 1
            self._head = ""
            self._text.drop_space()
        if scanner.state in (State.DONE, State.BAD):
            self._scanner = None
            if not scanner.has_started:
                head, self._head = self._head, ""
                return self._is_text_now(head + "".join(self._raw))
            self._is_text |= scanner.state is State.BAD
        return events

    def _is_text_now(self, text: str) -> list[Event]:
        self._is_text = True
        return self._text.push(text)


# -- internals ---------------------------------------------------------------


class _Prose:
    """Text, its white space held until it is known not to stand beside a call."""

    def __init__(self) -> None:
        self._space = ""
        self._after_call = self._had_call = False

    def push(self, text: str) -> list[Event]:
        stripped = text.rstrip(SPACE)
        if not stripped:
            self._space += text
            return []
        shown = self._space + stripped
        self._space = text[len(stripped) :]
        if self._after_call:
            self._after_call, shown = False, shown.lstrip(SPACE)
        return [Text(shown)]

    def drop_space(self) -> None:
        """A call begins here."""
        self._space, self._after_call, self._had_call = "", True, True

    def finish(self) -> list[Event]:
        rest, self._space = "" if self._had_call else self._space, ""
        return [Text(rest)] if rest else []


def _is_whole(head: str) -> bool:
    """Nothing, or one marker, and perhaps the bracket that opens a list."""
    rests = [head.removeprefix(marker) for marker in MARKERS if head.startswith(marker)]
    return any(rest.strip(SPACE) in ("", "[") for rest in (head, *rests))
