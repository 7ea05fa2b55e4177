"""Logs for people: configured once, by the command line; libraries only call `getLogger`.

    configure("info")                      to stderr
    configure("debug", Path("run.log"))    and to a file

INFO is what a person wants to know, DEBUG is per request; nothing is logged per token.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(level: str = "warning", file: Path | None = None) -> None:
    """Send the logs of `evolute` to stderr and, from DEBUG on, to `file`. Calling it again
    replaces what was set. Raises ValueError for an unknown level or a file that cannot be
    written."""
    if level not in LEVELS:
        raise ValueError(f"no log level {level!r}; use one of {', '.join(LEVELS)}.")
    logger = logging.getLogger("evolute")
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(level.upper())
    handlers: list[logging.Handler] = [shown]
    if file is not None:
        handlers.append(_to_file(file))
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT, datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if file else level.upper())
    logger.propagate = False  # a host program's root handler would print everything twice


def _to_file(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(file)
    except OSError as error:
        raise ValueError(
            f"log file {file} cannot be written ({error.strerror}); choose another place."
        ) from error
