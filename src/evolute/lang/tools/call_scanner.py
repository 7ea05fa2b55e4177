"""One call as a model writes it, {"name": ..., "arguments": {...}}, read character by character.

    scanner = CallScanner(index, names)
    scanner.push(char) -> events

    OPEN -{-> KEY -"-> IN_KEY -"-> COLON -:-> VALUE -> IN_VALUE -> NEXT -,-> KEY
                                                                   `-}-> DONE
Any other character leads to BAD. Arguments are passed on as they come once the name is known;
`parameters` is the same field by another name. Other fields are read over. Arguments that are
a JSON text within a string are unpacked, which takes their end.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from enum import Enum, auto

from evolute.lang.tools.events import Arguments, CallStarted, Event

SPACE = " \t\n\r"
ARGUMENTS = ("arguments", "parameters")


class State(Enum):
    OPEN = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    NEXT = auto()
    DONE = auto()
    BAD = auto()


class CallScanner:
    """`has_started` once the call was announced; from then on its text is a call for good."""

    def __init__(self, index: int, names: Collection[str]) -> None:
        self.state = State.OPEN
        self.has_started = False
        self._index = index
        self._names = names  # a call of anything else is none
        self._raw: list[str] = []  # of the key or value at hand
        self._key = ""
        self._extent = _Extent()
        self._held: list[str] = []  # arguments that came before the name
        self._has_arguments = self._is_arguments = self._streams = False

    @property
    def is_bad(self) -> bool:
        return self.state is State.BAD

    def push(self, char: str) -> list[Event]:
        """Nothing may follow DONE or BAD."""
        if self.state in (State.IN_KEY, State.IN_VALUE):
            return self._within(char)
        if char in SPACE:
            return []
        if self.state is State.VALUE:
            return self._begin_value(char)
        if self.state is State.NEXT and char == "}":
            return self._end()
        follows = {
            (State.OPEN, "{"): State.KEY,
            (State.KEY, '"'): State.IN_KEY,
            (State.COLON, ":"): State.VALUE,
            (State.NEXT, ","): State.KEY,
        }
        self.state = follows.get((self.state, char), State.BAD)
        if self.state is State.IN_KEY:
            self._raw, self._extent = [char], _Extent(char)
        return []

    def _within(self, char: str) -> list[Event]:
        if self.state is State.IN_VALUE and self._extent.is_scalar:
            if char in SPACE or char in ",}":
                events = self._end_value()
                return events if self.is_bad else events + self.push(char)
            self._raw.append(char)
            return []
        ended = self._extent.push(char)
        self._raw.append(char)
        if self.state is State.IN_VALUE:
            events = self._pass_on(char) if self._streams else []
            return events + self._end_value() if ended else events
        if ended:
            key = _loads("".join(self._raw))
            self._key = key if isinstance(key, str) else ""
            self.state = State.COLON
        return []

    def _begin_value(self, char: str) -> list[Event]:
        if char in "]},:":
            self.state = State.BAD
            return []
        self.state = State.IN_VALUE
        self._raw, self._extent = [char], _Extent(char)
        self._is_arguments = self._key in ARGUMENTS and not self._has_arguments
        self._has_arguments |= self._is_arguments
        self._streams = self._is_arguments and char in "{["
        return self._pass_on(char) if self._streams else []

    def _end_value(self) -> list[Event]:
        raw, is_whole = "".join(self._raw), self._is_arguments and not self._streams
        self.state, self._streams = State.NEXT, False
        if self._key == "name":
            return self._named(_loads(raw))
        if not is_whole:
            return []
        value = "{}" if raw == "null" else _loads(raw)
        return self._pass_on(value if isinstance(value, str) else raw)

    def _named(self, name: object) -> list[Event]:
        if not isinstance(name, str) or name not in self._names or self.has_started:
            self.state = State.BAD
            return []
        self.has_started = True
        held = "".join(self._held)
        return [CallStarted(self._index, name), *([Arguments(self._index, held)] if held else [])]

    def _pass_on(self, text: str) -> list[Event]:
        if self.has_started:
            return [Arguments(self._index, text)]
        self._held.append(text)
        return []

    def _end(self) -> list[Event]:
        self.state = State.DONE if self.has_started else State.BAD
        if self.state is State.DONE and not self._has_arguments:
            return [Arguments(self._index, "{}")]
        return []


# -- internals ---------------------------------------------------------------


class _Extent:
    """Finds where a JSON value ends; what stands in it is not checked."""

    __slots__ = ("_depth", "_escaped", "_in_string", "is_scalar")

    def __init__(self, first: str = '"') -> None:
        self.is_scalar = first not in '{["'  # a scalar is ended by what follows it
        self._depth, self._in_string, self._escaped = 0, False, False
        self.push(first)

    def push(self, char: str) -> bool:
        """True when `char` is the last of the value."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
                return self._depth == 0
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            return self._depth == 0
        return False


def _loads(raw: str) -> object:
    """The value, None when it is none; line breaks within strings pass, as models write them."""
    try:
        return json.loads(raw, strict=False)
    except ValueError:
        return None
