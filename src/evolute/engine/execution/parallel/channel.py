"""How do the engine and its workers talk? In frames of JSON and raw arrays over a socket pair.

    channel.send(op, arrays, **meta)        from any thread; one frame after the other
    channel.receive(timeout_s) -> Message   the next frame; TimeoutError, or Closed at the end
    channel.close()

A frame is its header's length (4 bytes, little-endian), a header {"op", "meta", "arrays": [[name,
dtype, shape], ...]} and the arrays' bytes. A thread reads ahead, so that the end of the other
process is known at once (`on_end`), also in the middle of a computation. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.types import WireError

Array = NDArray[Any]
DTYPES = ("float32", "int32", "int64")
MAX_HEADER = 2**24  # bytes
SEND_TIMEOUT_S = 120.0
LOOK_EVERY_S = 1.0


class Closed(WireError):
    """The other end is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    op: str
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


class Channel:
    """One end of a connected stream socket, which it owns."""

    def __init__(
        self,
        connection: socket.socket,
        on_end: Callable[[], None],
        is_orphan: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_end` is called once, on the reading thread, unless `close` was called before;
        `is_orphan` is asked every second and counts as an end."""
        connection.settimeout(SEND_TIMEOUT_S)
        self._socket, self._on_end, self._is_orphan = connection, on_end, is_orphan
        self._sending, self._is_closed = threading.Lock(), False
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read_all, name="evolute-rank", daemon=True)
        self._thread.start()

    def send(self, op: str, arrays: Mapping[str, Array] | None = None, /, **meta: Any) -> None:
        """Raises OSError when the other end is gone or takes nothing for SEND_TIMEOUT_S."""
        whole = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
        listed = [[name, array.dtype.name, array.shape] for name, array in whole.items()]
        header = json.dumps({"op": op, "meta": meta, "arrays": listed}).encode()
        with self._sending:
            self._socket.sendall(struct.pack("<I", len(header)) + header)
            for array in whole.values():
                if array.nbytes:
                    self._socket.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self, timeout_s: float) -> Message:
        """Raises TimeoutError, or Closed when all that came before the end has been given out."""
        try:
            message = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError(f"no message within {timeout_s:g} s") from None
        if message is None:
            self._inbox.put(None)
            raise Closed("the other end is gone")
        return message

    def close(self) -> None:
        """Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(OSError):  # the other end was first
                self._socket.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2 * LOOK_EVERY_S)
        self._socket.close()

    # -- internals ---------------------------------------------------------------

    def _read_all(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                while True:
                    self._inbox.put(self._read_message(selector))
        except (OSError, ValueError, KeyError, TypeError, WireError):
            pass  # whatever it was, no more can be read
        finally:
            self._inbox.put(None)
            if not self._is_closed:
                self._on_end()

    def _read_message(self, selector: selectors.BaseSelector) -> Message:
        (length,) = struct.unpack("<I", self._read(selector, bytearray(4)))
        if length > MAX_HEADER:
            raise WireError(f"a header of {length} bytes; {MAX_HEADER} is the limit.")
        header = json.loads(bytes(self._read(selector, bytearray(length))))
        arrays = {}
        for name, dtype, shape in header["arrays"]:
            if dtype not in DTYPES:
                raise WireError(f"an array of {dtype}; {', '.join(DTYPES)} are sent.")
            array = np.empty(math.prod(shape), dtype)
            self._read(selector, array.view(np.uint8).data)
            arrays[name] = array.reshape(shape)
        return Message(header["op"], header["meta"], arrays)

    def _read(self, selector: selectors.BaseSelector, into: Any) -> Any:
        view, done = memoryview(into), 0
        while done < len(view):
            if not selector.select(LOOK_EVERY_S):
                if self._is_closed or self._is_orphan():
                    raise Closed("nobody is there to write")
                continue
            count = self._socket.recv_into(view[done:])
            if not count:
                raise Closed("the other end is gone")
            done += count
        return into
