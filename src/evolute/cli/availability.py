"""A user in the background: asks the server something every second and notes how it went."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

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
        self.seen = Availability()
        self._url, self._every_s, self._stop = url, every_s, threading.Event()
        self._thread = threading.Thread(target=self._run, name="evolute-poller", daemon=True)

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        import httpx

        message = {"role": "user", "content": "Say hello."}
        body = {"model": "default", "messages": [message], "max_tokens": 2}
        last = time.monotonic()
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self._stop.wait(self._every_s):
                self._ask(client, body)
                now = time.monotonic()
                self.seen.max_gap_s = max(self.seen.max_gap_s, now - last)
                last = now

    def _ask(self, client, body: dict[str, object]) -> None:  # type: ignore[no-untyped-def]
        self.seen.requests += 1
        try:
            client.post(f"{self._url}/v1/chat/completions", json=body).raise_for_status()
        except Exception as error:
            self.seen.errors += 1
            self.seen.last_error = f"{type(error).__name__}: {error}"
