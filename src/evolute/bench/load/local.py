"""Our own server in a process of its own, for the length of a bench.

with own_server("smollm2-135m", ["page_size=16"]) as server:
    server.url, server.start_s, server.peak_rss_mb()
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from evolute.types import BackendError

# no restarts: a server that dies under a bench is its failure
SERVE = (
    *(sys.executable, "-m", "evolute.cli.main", "serve", "--no-supervise"),
    *("--host", "127.0.0.1", "--port", "0"),
)
START_S, STOP_S = 300.0, 15.0
MAX_TOLD = 800  # characters of the server's log that an error shows


def own_server(
    model: str, overrides: Sequence[str] = (), adapters: Sequence[str] = ()
) -> ServerProcess:
    """`evolute serve` with these settings and adapters (NAME=DIRECTORY), on a free port."""
    words = [word for one in overrides for word in ("--set", one)]
    words += [word for one in adapters for word in ("--adapter", one)]
    return ServerProcess([*SERVE, "--model", model, *words])


class ServerProcess:
    """A command that prints `ready URL`: started when entered, stopped when left.

    Raises BackendError with the end of its log when it does not get ready.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._reader: threading.Thread | None = None
        self.url, self.start_s = "", 0.0

    def __enter__(self) -> ServerProcess:
        began = time.perf_counter()
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C is for the bench, which stops the server itself
        )
        try:
            self.url = self._ready(self._process)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "entered"
        return self._process.pid

    def peak_rss_mb(self) -> float | None:
        """Of the server's process since its start; None where the system does not say."""
        return self._status_mb("VmHWM:")

    def rss_mb(self) -> float | None:
        """What it holds now."""
        return self._status_mb("VmRSS:")

    def stop(self) -> None:
        """Idempotent; kills what does not stop in time."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        if self._reader:
            self._reader.join(STOP_S)  # it has read to the end
        if process.stdout:
            process.stdout.close()
        if self._log:
            self._log.close()
        self._process = None

    def _status_mb(self, name: str) -> float | None:
        assert self._process is not None, "started"
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) / 1024
        return None

    def _ready(self, process: subprocess.Popen[str]) -> str:
        lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=0.5)
                if line.startswith("ready "):
                    return line.split()[1]
            if process.poll() is not None and lines.empty():
                break
        assert self._log is not None, "entered"
        self._log.seek(0)
        said = self._log.read()[-MAX_TOLD:].strip()
        raise BackendError(f"the server did not start ({' '.join(self._command)}):\n{said}")


# -- internals ---------------------------------------------------------------


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None, "a pipe"
    for line in process.stdout:
        lines.put(line)
