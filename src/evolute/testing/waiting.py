"""Waiting for what another thread or process will do, not for a guess of its time."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.003


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Returns once `condition()` is true; TimeoutError after `seconds`, for what never comes."""
    ends_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= ends_s:
            raise TimeoutError(f"it did not come true within {seconds:g} s")
        time.sleep(POLL_S)
