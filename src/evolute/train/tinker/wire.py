"""How are protocol buffers laid out as bytes? The few rules of the format that the API needs.

fields(data)                 every (number, value) of a message, in order
grouped(data)                the same by number
varint, text, blob, message, double, packed      a field as bytes

Values read are integers (varint), 8 or 4 bytes (fixed width), or bytes (length-delimited). The
format: protobuf.dev/programming-guides/encoding. Damaged bytes raise WireError.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator

from evolute.types import WireError

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Raises WireError for what is no message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise WireError("a field has number 0; the body is no protocol buffer.")
        value: Value
        if kind == VARINT:
            value, at = _read_varint(data, at)
        elif kind in (FIXED64, FIXED32, DELIMITED):
            size = 8 if kind == FIXED64 else 4
            if kind == DELIMITED:
                size, at = _read_varint(data, at)
            value = data[at : at + size]
            at += size
            if at > len(data):
                raise WireError("a field ends beyond its message; the body was cut off.")
        else:
            raise WireError(f"a field is of wire type {kind}, which nothing here uses.")
        yield number, value


def grouped(data: bytes) -> dict[int, list[Value]]:
    found: dict[int, list[Value]] = defaultdict(list)
    for number, value in fields(data):
        found[number].append(value)
    return found


def bytes_of(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise WireError("a number stands where bytes are expected.")
    return value


def text_of(value: Value) -> str:
    try:
        return bytes_of(value).decode()
    except UnicodeDecodeError:
        raise WireError("a text is not UTF-8.") from None


def int_of(value: Value) -> int:
    """Two's complement of 64 bits, as int32 and int64 are written."""
    if not isinstance(value, int):
        raise WireError("bytes stand where a number is expected.")
    return value - (1 << 64) if value >= 1 << 63 else value


def ints_of(values: Iterable[Value]) -> list[int]:
    """A repeated number, packed or not."""
    found = []
    for value in values:
        if isinstance(value, int):
            found.append(int_of(value))
            continue
        at = 0
        while at < len(value):
            one, at = _read_varint(value, at)
            found.append(int_of(one))
    return found


def double_of(value: Value) -> float:
    if not isinstance(value, bytes) or len(value) != 8:
        raise WireError("a double is not 8 bytes.")
    (found,) = struct.unpack("<d", value)
    return float(found)


def varint(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def blob(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | DELIMITED) + _varint(len(data)) + data


def text(number: int, value: str) -> bytes:
    return blob(number, value.encode())


def double(number: int, value: float) -> bytes:
    return _varint(number << 3 | FIXED64) + struct.pack("<d", value)


def packed(number: int, values: Iterable[int]) -> bytes:
    return blob(number, b"".join(map(_varint, values)))


# -- internals ---------------------------------------------------------------


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(MAX_VARINT_BYTES):
        if at + i >= len(data):
            raise WireError("a number was cut off; the body is no protocol buffer.")
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + i + 1
    raise WireError("a number has more than 10 bytes; the body is no protocol buffer.")
