"""How does a program start a server of its own?

    with Runtime(model_path, port=0, **settings) as runtime: ...

It is `evolute serve` in another process, ended when the block or this process ends.
"""

from __future__ import annotations

import atexit
import os
import select
import subprocess
import sys
import time
from typing import Any

from evolute.lang.endpoints.runtime import RuntimeEndpoint
from evolute.types import BackendError

READY = "ready "
END_S = 10.0


class Runtime(RuntimeEndpoint):
    """A `RuntimeEndpoint` that owns its server.

    `settings` are the engine's, e.g. `page_size=16`.
    Raises BackendError with what the server wrote last when it does not come up in `timeout_s`.
    """

    def __init__(
        self,
        model_path: str = "smollm2-135m",
        *,
        port: int = 0,
        start_timeout_s: float = 300.0,
        **settings: Any,
    ) -> None:
        words = [sys.executable, "-m", "evolute.cli.main", "serve", "--model", model_path]
        words += ["--port", str(port)]
        for name, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["--set", f"{name}={text}"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        atexit.register(self.shutdown)
        try:
            url = _ready(self._process, start_timeout_s)
        except BaseException:
            self.shutdown()
            raise
        super().__init__(url)

    def shutdown(self) -> None:
        """End the server. Idempotent."""
        atexit.unregister(self.shutdown)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(END_S)
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


# -- internals ---------------------------------------------------------------


def _ready(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """The URL on the line that begins with `ready`."""
    assert process.stdout is not None
    ends_s, text = time.monotonic() + timeout_s, b""
    while True:
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            raise BackendError(f"the server was not ready after {timeout_s:g} s; see its settings.")
        if not select.select([process.stdout], [], [], min(left_s, 1.0))[0]:
            continue
        new = os.read(process.stdout.fileno(), 4096)
        if not new:
            code = process.wait(END_S)
            raise BackendError(
                f"the server ended with status {code} before it was ready; run `evolute serve` "
                "with the same settings to see why."
            )
        text += new
        for line in text.decode(errors="replace").splitlines():
            if line.startswith(READY) and line.rstrip() != READY:
                return line.removeprefix(READY).strip()
