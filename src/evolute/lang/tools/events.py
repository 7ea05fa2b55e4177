"""What a model's answer consists of: text and calls, in pieces and as a whole.

merged(events)     neighbours of one kind joined
collect(events)    the whole: text and finished calls
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The `index`-th call of the answer; its arguments follow."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of the arguments' JSON."""

    index: int
    text: str


Event = Text | CallStarted | Arguments


class Parser(Protocol):
    """Reads one answer. However its text is cut into pushes, the merged events are the same."""

    def push(self, text: str) -> list[Event]: ...
    def finish(self) -> list[Event]: ...


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: str  # JSON, incomplete when the answer was cut off


@dataclass(frozen=True, slots=True)
class Collected:
    text: str
    calls: tuple[Call, ...]


def merged(events: Iterable[Event]) -> list[Event]:
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + event.text)
        elif isinstance(event, Arguments) and isinstance(last, Arguments):
            if event.index == last.index:
                joined[-1] = Arguments(last.index, last.text + event.text)
            else:
                joined.append(event)
        else:
            joined.append(event)
    return [event for event in joined if isinstance(event, CallStarted) or event.text]


def collect(events: Iterable[Event]) -> Collected:
    text: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        if isinstance(event, Text):
            text.append(event.text)
        elif isinstance(event, CallStarted):
            names.append(event.name)
            arguments.append([])
        else:
            arguments[event.index].append(event.text)
    calls = tuple(Call(name, "".join(parts)) for name, parts in zip(names, arguments))
    return Collected("".join(text), calls)
