"""What was the system doing, and when: spans, one JSON line each, a file for each process.

    tracer = Tracer(path)                  Tracer(None) is off and costs next to nothing
    with tracer.span("engine/step", request="req-3"): ...
    tracer.add("train/update", start_s, end_s, step=4)
    read_trace(path) -> list[Span]         the torn last line of a killed process is ignored

A span is {"name", "start_s", "end_s", "process", "thread", ids...}. Times are seconds since the
epoch, taken from the monotonic clock plus an offset fixed at the start, so that spans of several
processes share one axis and none runs backwards when the wall clock is set.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolute.telemetry.records import RecordWriter, read_records

Id = str | int | float
OWN = ("name", "start_s", "end_s", "process", "thread")


@dataclass(frozen=True, slots=True)
class Span:
    """An interval with a name and the ids of what it was for (request, rollout, trial, step)."""

    name: str
    start_s: float
    end_s: float
    process: int = 0
    thread: str = ""
    ids: Mapping[str, Id] = field(default_factory=dict)


class Tracer:
    """Writes spans to `path`; safe to use from several threads. `None`: nothing is written."""

    def __init__(self, path: Path | None, *, buffer: int = 256) -> None:
        self._lock = threading.Lock()
        self._offset_s = time.time() - time.perf_counter()
        self._writer = RecordWriter(path, flush_every=buffer) if path else None
        self._process = os.getpid()
        if self._writer:
            atexit.register(self.close)

    @property
    def is_enabled(self) -> bool:
        return self._writer is not None

    def now_s(self) -> float:
        """The time on the axis of `add`."""
        return time.perf_counter() + self._offset_s

    def span(self, name: str, **ids: Id) -> AbstractContextManager[None]:
        """Time a block. The span is written when the block ends, also by an error."""
        return self._timed(name, ids) if self._writer else _NOTHING

    def add(self, name: str, start_s: float, end_s: float, **ids: Id) -> None:
        """Write a span that is over. After `close` it is dropped."""
        if self._writer is None:
            return
        thread = threading.current_thread().name
        fixed: dict[str, Any] = dict(zip(OWN, (name, start_s, end_s, self._process, thread)))
        with self._lock:
            if self._writer is not None:
                self._writer.write({**ids, **fixed})

    def flush(self) -> None:
        """Put what is buffered on disk."""
        with self._lock:
            if self._writer:
                self._writer.flush()

    def close(self) -> None:
        """Flush and stop. Idempotent."""
        with self._lock:
            if self._writer:
                self._writer.close()
                self._writer = None
                atexit.unregister(self.close)

    @contextmanager
    def _timed(self, name: str, ids: dict[str, Id]) -> Iterator[None]:
        started = self.now_s()
        try:
            yield
        finally:
            self.add(name, started, self.now_s(), **ids)


def read_trace(path: Path) -> list[Span]:
    """Spans of a file by their start; [] when there is no file. Raises ValueError when the
    file holds something else."""
    spans = []
    for record in read_records(path):
        try:
            name, start_s, end_s, process, thread = (record.pop(key) for key in OWN)
        except KeyError as error:
            raise ValueError(f"{path} is not a trace: a line has no {error}.") from error
        spans.append(Span(name, start_s, end_s, process, thread, record))
    return sorted(spans, key=lambda span: span.start_s)


_NOTHING: AbstractContextManager[None] = nullcontext()
