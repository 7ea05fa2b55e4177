"""What does somebody who waits for a long bench see?

    tell("programs: few_shot, round 1 of 3 ...")        one line, at once, for people

Lines go to the logger `evolute.bench` at level INFO: `evolute bench` shows them on stderr, a
program that calls a bench sees them when it asks its logging for them.
"""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger("evolute.bench")


def tell(text: str) -> None:
    logger.info(text)


def show_on_stderr() -> None:
    """Lines with the seconds since now before them. Idempotent."""
    if any(isinstance(handler, _Lines) for handler in logger.handlers):
        return
    logger.addHandler(_Lines(time.monotonic()))
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Lines(logging.Handler):
    def __init__(self, began: float) -> None:
        super().__init__()
        self._began = began

    def emit(self, record: logging.LogRecord) -> None:
        seconds = time.monotonic() - self._began
        print(f"{seconds:7.0f} s  {record.getMessage()}", file=sys.stderr, flush=True)
