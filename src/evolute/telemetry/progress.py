"""Progress of long work, on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 10.0


class Progress:
    """`advance(to, note)`; made by `progress`."""

    def __init__(self, title: str, total: int, bar: Any = None) -> None:
        self._title, self._total, self._bar, self._last = title, total, bar, 0.0
        self._task = bar.add_task(title, total=total, note="") if bar else None

    def advance(self, done: int, note: str = "") -> None:
        """`done` of the total; `note` is shown beside it."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif done >= self._total or time.monotonic() - self._last > LINE_EVERY_S:
            self._last = time.monotonic()
            print(f"{self._title}: {done}/{self._total} {note}", file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """A progress display for the length of the block."""
    if not sys.stderr.isatty():
        yield Progress(title, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield Progress(title, total, bar)
