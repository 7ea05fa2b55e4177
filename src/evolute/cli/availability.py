"""A user in the background: asks the server something every second and notes how it went."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 30.0


@dataclass(slots=True)
class Availability:
    """What the user saw. `max_gap_s` is the longest time between two answers."""

    requests: int = 0
    errors: int = 0
    max_gap_s: float = 0.0
    last_error: str = ""


class Poller:
    """Polls `/v1/chat/completions` while the block runs."""

    def __init__(self, url: str, every_s: float = 1.0) -> None:
        self._seen, self._lock = Availability(), threading.Lock()
        self._url, self._every_s, self._stop = url, every_s, threading.Event()
        self._thread = threading.Thread(target=self._run, name="evolute-poller", daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)

    def take(self) -> Availability:
        """What was seen since the last call."""
        with self._lock:
            seen, self._seen = self._seen, Availability()
        return seen

    def _run(self) -> None:
        import httpx

        message = {"role": "user", "content": "Say hello."}
        body = {"model": "default", "messages": [message], "max_tokens": 2}
        last = time.monotonic()
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self._stop.wait(self._every_s):
                error = self._ask(client, body)
                now = time.monotonic()
                self._note(error, now - last)
                last = now

    def _ask(self, client: Any, body: dict[str, object]) -> str:
        """What went wrong; nothing when all was well."""
        try:
            client.post(f"{self._url}/v1/chat/completions", json=body).raise_for_status()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _note(self, error: str, gap_s: float) -> None:
        with self._lock:
            self._seen.requests += 1
            self._seen.errors += bool(error)
            self._seen.last_error = error or self._seen.last_error
            self._seen.max_gap_s = max(self._seen.max_gap_s, gap_s)
