"""The header of a GGUF file: metadata by key, and where each tensor lies.

read_header(path) -> Header

Written here because the `gguf` package's reader builds a numpy view for each token of a
vocabulary: seconds for what takes a tenth of one. Types, block sizes and dequantisation stay the
package's. Every length is checked against the file before it is used, so that a damaged file
costs neither memory nor a crash.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.types import ModelError

VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
SCALARS = {  # GGUF's number of a type -> struct's letter
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f"},
    **{7: "?", 10: "Q", 11: "q", 12: "d"},
}
STRING, ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor: `shape` in the order of torch; `data` its bytes, read when touched."""

    name: str
    kind: str  # of gguf.GGMLQuantizationType, e.g. "Q4_1"
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata by key, tensors by name."""

    fields: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> Header:
    """Raises ModelError for a missing, damaged or shortened file."""
    if not path.is_file():
        raise ModelError(f"model file {path} does not exist; check the path.")
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _Reader(data).header()
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(
            f"model file {path} cannot be read as GGUF ({error}); it is damaged or incomplete. "
            "Fetch it again."
        ) from error


# -- internals ---------------------------------------------------------------


class _Reader:
    """A position in the file; each method reads one thing and moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), 0

    def header(self) -> Header:
        if self.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self.number("I")
        if version not in VERSIONS:
            raise ValueError(f"version {version}; supported are {VERSIONS}, little-endian")
        num_tensors, num_fields = self.number("Q"), self.number("Q")
        fields: dict[str, Any] = {}
        for _ in range(self.checked(num_fields, 13)):
            self.put(fields, self.text(), self.value)
        places: dict[str, tuple[Any, tuple[int, ...], int]] = {}
        for _ in range(self.checked(num_tensors, 24)):
            self.put(places, self.text(), self.place)
        alignment = fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r}, not a power of two")
        start = -(-self.at // alignment) * alignment
        tensors = {name: self.tensor(name, start, *place) for name, place in places.items()}
        return Header(fields, tensors)

    def put(self, target: dict[str, Any], key: str, read: Callable[[], Any]) -> None:
        if key in target:
            raise ValueError(f"{key!r} is there twice")
        target[key] = read()

    def value(self) -> Any:
        return self.value_of(self.number("I"), depth=0)

    def value_of(self, kind: int, depth: int) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY or depth > 1:
            raise ValueError(f"unknown type {kind} of a value")
        kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            return self.texts(count)
        if kind in SCALARS:
            letter = SCALARS[kind]
            raw = self.take(self.checked(count, struct.calcsize(letter)) * struct.calcsize(letter))
            return list(struct.unpack(f"<{count}{letter}", raw))
        return [self.value_of(kind, depth + 1) for _ in range(self.checked(count, 12))]

    def texts(self, count: int) -> list[str]:
        """The hot loop: a vocabulary has 100,000 strings."""
        data, at, size, out = self.data, self.at, self.size, []
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(self.checked(count, 8)):
            start = at + 8
            at = start + length_at(data, at)[0]
            if at > size:
                raise ValueError("a string reaches beyond its end")
            out.append(data[start:at].decode())
        self.at = at
        return out

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def place(self) -> tuple[Any, tuple[int, ...], int]:
        from gguf import GGMLQuantizationType

        num_dimensions = self.number("I")
        if num_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(num_dimensions))[::-1]
        return GGMLQuantizationType(self.number("I")), shape, self.number("Q")

    def tensor(
        self, name: str, start: int, kind: Any, shape: tuple[int, ...], offset: int
    ) -> TensorInfo:
        from gguf import GGML_QUANT_SIZES

        block, block_bytes = GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block or not prod(shape):
            raise ValueError(f"tensor {name} of type {kind.name} cannot have the shape {shape}")
        num_bytes = prod(shape) // block * block_bytes
        if start + offset + num_bytes > self.size:
            raise ValueError(f"it is cut short within tensor {name}")
        data = np.frombuffer(self.data, np.uint8, num_bytes, start + offset)
        return TensorInfo(name, kind.name, shape, data)

    def number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(letter)))[0]

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise ValueError("it ends within its header")
        self.at += count
        return self.data[self.at - count : self.at]

    def checked(self, count: int, least_bytes: int) -> int:
        """A count of things of at least so many bytes each."""
        if count * least_bytes > self.size - self.at:
            raise ValueError(f"it counts {count} entries, more than it has room for")
        return count
