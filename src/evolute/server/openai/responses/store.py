"""Responses that can be asked for again and built upon, for a while.

    store.put(owner, id, response, messages)
    store.get(owner, id) -> Stored            404 when it is unknown, expired or another owner's
    store.delete(owner, id)

It lives in memory and is bounded: by age, and by number and characters, of each owner and of all.
An owner with too much loses its own oldest; when there is too much in all, who has most does.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.server.errors import FieldError
from evolute.types import Message

MAX_AGE_S = 3600.0
MAX_RESPONSES, MAX_CHARS = 1024, 16 << 20  # of one owner
ALL_RESPONSES, ALL_CHARS = 16_384, 64 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    response: dict[str, Any]
    messages: tuple[Message, ...]  # the conversation up to and with this answer
    num_chars: int


@dataclass(slots=True)
class _Shelf:
    """One owner's, the oldest first."""

    responses: OrderedDict[str, Stored] = field(default_factory=OrderedDict)
    num_chars: int = 0


class ResponseStore:
    """Used from one event loop."""

    def __init__(
        self,
        *,
        max_age_s: float = MAX_AGE_S,
        max_responses: int = MAX_RESPONSES,
        max_chars: int = MAX_CHARS,
        all_responses: int = ALL_RESPONSES,
        all_chars: int = ALL_CHARS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._clock = max_age_s, clock
        self._of_one, self._of_all = (max_responses, max_chars), (all_responses, all_chars)
        self._shelves: dict[str, _Shelf] = {}
        self._ages: OrderedDict[tuple[str, str], float] = OrderedDict()  # when each expires
        self._num_chars = 0

    def __len__(self) -> int:
        self._forget_old()
        return len(self._ages)

    def put(
        self, owner: str, id: str, response: dict[str, Any], messages: Sequence[Message]
    ) -> None:
        """Once for each id."""
        num_chars = len(json.dumps(response)) + len(json.dumps(messages))
        expires_s = self._clock() + self._max_age_s
        shelf = self._shelves.setdefault(owner, _Shelf())
        shelf.responses[id] = Stored(response, tuple(messages), num_chars)
        self._ages[owner, id] = expires_s
        shelf.num_chars += num_chars
        self._num_chars += num_chars
        self._forget_old()
        while _is_over(len(shelf.responses), shelf.num_chars, self._of_one):
            self._drop(owner, next(iter(shelf.responses)))
        while _is_over(len(self._ages), self._num_chars, self._of_all):
            fullest = max(self._shelves, key=lambda one: self._shelves[one].num_chars)
            self._drop(fullest, next(iter(self._shelves[fullest].responses)))

    def get(self, owner: str, id: str, field: str = "response_id") -> Stored:
        self._forget_old()
        shelf = self._shelves.get(owner)
        if shelf is None or id not in shelf.responses:
            text = (
                f"response {id!r} is not here. They are kept for {self._max_age_s / 60:g} minutes, "
                "for the key that made them, unless store is false."
            )
            raise FieldError(text, param=field, code="response_not_found", status=404)
        return shelf.responses[id]

    def delete(self, owner: str, id: str) -> None:
        self.get(owner, id)
        self._drop(owner, id)

    def _forget_old(self) -> None:
        while self._ages:
            (owner, id), expires_s = next(iter(self._ages.items()))
            if expires_s > self._clock():
                return
            self._drop(owner, id)

    def _drop(self, owner: str, id: str) -> None:
        shelf = self._shelves[owner]
        num_chars = shelf.responses.pop(id).num_chars
        shelf.num_chars -= num_chars
        self._num_chars -= num_chars
        del self._ages[owner, id]
        if not shelf.responses:
            del self._shelves[owner]


def _is_over(count: int, num_chars: int, limits: tuple[int, int]) -> bool:
    return count > limits[0] or num_chars > limits[1]
