"""Responses that can be asked for again and built upon, for a while.

    store.put(owner, id, response, messages)
    store.get(owner, id) -> Stored            404 when it is unknown, expired or another owner's
    store.delete(owner, id)

It lives in memory and is bounded: by age, by number, and by characters, the oldest going first.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evolute.server.errors import FieldError
from evolute.types import Message

MAX_AGE_S = 3600.0
MAX_RESPONSES = 4096
MAX_CHARS = 64 << 20


@dataclass(frozen=True, slots=True)
class Stored:
    response: dict[str, Any]
    messages: tuple[Message, ...]  # the conversation up to and with this answer
    num_chars: int
    expires_s: float


class ResponseStore:
    """Used from one event loop."""

    def __init__(
        self,
        *,
        max_age_s: float = MAX_AGE_S,
        max_responses: int = MAX_RESPONSES,
        max_chars: int = MAX_CHARS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._max_responses, self._max_chars = max_age_s, max_responses, max_chars
        self._clock = clock
        self._stored: OrderedDict[tuple[str, str], Stored] = OrderedDict()  # oldest first
        self._num_chars = 0

    def __len__(self) -> int:
        self._forget()
        return len(self._stored)

    def put(
        self, owner: str, id: str, response: dict[str, Any], messages: Sequence[Message]
    ) -> None:
        num_chars = len(json.dumps(response)) + len(json.dumps(messages))
        expires_s = self._clock() + self._max_age_s
        self._stored[owner, id] = Stored(response, tuple(messages), num_chars, expires_s)
        self._num_chars += num_chars
        self._forget()

    def get(self, owner: str, id: str, field: str = "response_id") -> Stored:
        self._forget()
        found = self._stored.get((owner, id))
        if found is None:
            text = (
                f"response {id!r} is not here. They are kept for {self._max_age_s / 60:g} minutes, "
                "for the key that made them, unless store is false."
            )
            raise FieldError(text, param=field, code="response_not_found", status=404)
        return found

    def delete(self, owner: str, id: str) -> None:
        self.get(owner, id)
        self._num_chars -= self._stored.pop((owner, id)).num_chars

    def _forget(self) -> None:
        """Drop what is too old, and the oldest while there is too much."""
        while self._stored:
            oldest = next(iter(self._stored.values()))
            is_expired = oldest.expires_s <= self._clock()
            is_full = len(self._stored) > self._max_responses or self._num_chars > self._max_chars
            if not is_expired and not is_full:
                return
            self._num_chars -= self._stored.popitem(last=False)[1].num_chars
