"""How far long work is, on stderr: a bar on a terminal, now and then a line elsewhere.

with progress("train", total=8) as bar:
    bar.advance(3, "accuracy 0.42")      3 of 8 are done
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 10.0


class Progress:
    """`advance(to, note)`; made by `progress`."""

    def __init__(self, title: str, total: int, bar: Any = None, *, is_shown: bool = True) -> None:
        self._title, self._total, self._bar, self._is_shown = title, total, bar, is_shown
        self._last = time.monotonic() - LINE_EVERY_S  # the first call is shown at once
        self._task = bar.add_task(title, total=total, note="") if bar else None

    def advance(self, done: int, note: str = "") -> None:
        """`done` of the total; `note` is shown beside it."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif self._is_shown and self._is_due(done):
            self._last = time.monotonic()
            line = f"{self._title}: {done}/{self._total} {note}".rstrip()
            print(line, file=sys.stderr, flush=True)

    def _is_due(self, done: int) -> bool:
        return done >= self._total or time.monotonic() - self._last >= LINE_EVERY_S


@contextmanager
def progress(title: str, total: int, *, is_shown: bool = True) -> Iterator[Progress]:
    """A progress display for the length of the block; nothing at all with `is_shown=False`."""
    if not is_shown or not sys.stderr.isatty():
        yield Progress(title, total, is_shown=is_shown)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),  # a note may hold [brackets]
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield Progress(escape(title), total, bar)
