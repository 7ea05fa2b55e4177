"""Which numbers does a tensor of a request hold? Dense or sparse (CSR), from JSON or bytes.

from_json({"data", "dtype", "shape", "sparse_..."}, where) -> array
from_wire(bytes, where) -> array                  the proto message Tensor
to_json(array), to_wire(array)                    dense

Arrays are float32 or int64. What is not listed in a sparse tensor is 0. Raises RequestError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.train.tinker import wire
from evolute.types import RequestError, WireError

Array = NDArray[Any]
FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
NAMES: dict[str, np.dtype[Any]] = {"float32": FLOAT32, "int64": INT64}
WIRE_DTYPES: dict[int, np.dtype[Any]] = {
    1: FLOAT32,
    2: INT64,
    3: np.dtype(np.int32),
    4: np.dtype(np.uint16),
}
BFLOAT16 = 4
MAX_DENSE = 1 << 26  # cells of a sparse tensor when it is laid out
KEYS = {"data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices"}


def from_json(value: Any, where: str) -> Array:
    if not isinstance(value, Mapping) or "data" not in value or "dtype" not in value:
        raise RequestError(f"{where} must be a tensor with data, dtype and shape.")
    unknown = set(value) - KEYS
    if unknown:
        raise RequestError(f"{where} has the unknown field {sorted(unknown)[0]!r}.")
    dtype = NAMES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise RequestError(f"{where} is of dtype {value['dtype']!r}; use float32 or int64.")
    data = _numbers(value["data"], dtype, f"{where}.data")
    shape = value.get("shape")
    shape = [len(data)] if shape is None else [int(n) for n in _whole(shape, f"{where}.shape")]
    crow, col = value.get("sparse_crow_indices"), value.get("sparse_col_indices")
    if crow is None and col is None:
        return _shaped(data, shape, where)
    crow = _whole([] if crow is None else crow, f"{where}.sparse_crow_indices")
    col = _whole([] if col is None else col, f"{where}.sparse_col_indices")
    return _dense(data, crow, col, shape, where)


def from_wire(raw: bytes, where: str) -> Array:
    found = wire.grouped(raw)
    code = wire.int_of(found[3][-1]) if found[3] else 0
    if code not in WIRE_DTYPES:
        raise RequestError(f"{where} is of dtype {code}; use float32 or int64.")
    shape = wire.ints_of(found[4])
    if found[2]:
        parts = wire.grouped(wire.bytes_of(found[2][-1]))
        data = _decoded(_last(parts, 1), code, where)
        crow, col = (_buffer(_last(parts, n), INT64, where) for n in (2, 3))
        return _dense(data, crow, col, shape, where)
    data = _decoded(_last(found, 1), code, where)
    return _shaped(data, shape or [len(data)], where)


def to_json(array: Array) -> dict[str, Any]:
    dtype = "float32" if array.dtype.kind == "f" else "int64"
    return {"data": array.ravel().tolist(), "dtype": dtype, "shape": list(array.shape)}


def to_wire(array: Array) -> bytes:
    is_float = array.dtype.kind == "f"
    dense = np.ascontiguousarray(array, FLOAT32 if is_float else INT64).tobytes()
    return wire.blob(1, dense) + wire.varint(3, 1 if is_float else 2) + wire.packed(4, array.shape)


# -- internals ---------------------------------------------------------------


def _numbers(values: Any, dtype: np.dtype[Any], where: str) -> Array:
    if not isinstance(values, list):
        raise RequestError(f"{where} must be a list of numbers.")
    if dtype == INT64:
        return _whole(values, where)
    if any(type(v) not in (int, float) for v in values):
        raise RequestError(f"{where} must be a list of numbers.")
    with np.errstate(over="ignore"):
        try:
            return np.array(values, np.float64).astype(FLOAT32)
        except OverflowError:
            raise RequestError(f"{where} holds a number that is too large.") from None


def _whole(values: Any, where: str) -> Array:
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise RequestError(f"{where} must be a list of whole numbers.")
    try:
        return np.array(values, INT64)
    except OverflowError:
        raise RequestError(f"{where} holds a number beyond 64 bits.") from None


def _shaped(data: Array, shape: Sequence[int], where: str) -> Array:
    if any(n < 0 for n in shape) or math.prod(shape) != len(data):
        raise RequestError(f"{where} has {len(data)} values, but its shape is {list(shape)}.")
    return data.reshape(shape)


def _dense(data: Array, crow: Array, col: Array, shape: Sequence[int], where: str) -> Array:
    """Rows of the compressed form laid out; every index is checked."""
    if len(shape) != 2 or min(shape) < 0:
        raise RequestError(f"{where} is sparse, so its shape must be [rows, columns].")
    rows, columns = shape
    if rows * columns > MAX_DENSE:
        raise RequestError(f"{where} has {rows} x {columns} cells; at most {MAX_DENSE} are read.")
    is_sound = len(crow) == rows + 1 and len(col) == len(data) and len(crow) > 0
    is_sound = is_sound and crow[0] == 0 and crow[-1] == len(data)
    if not (is_sound and (np.diff(crow) >= 0).all() and ((col >= 0) & (col < columns)).all()):
        raise RequestError(f"{where}: the row pointers and columns do not fit its shape.")
    out = np.zeros((rows, columns), data.dtype)
    out[np.repeat(np.arange(rows), np.diff(crow)), col] = data
    return out


def _last(found: Mapping[int, list[wire.Value]], number: int) -> bytes:
    return wire.bytes_of(found[number][-1]) if found.get(number) else b""


def _decoded(raw: bytes, code: int, where: str) -> Array:
    values = _buffer(raw, WIRE_DTYPES[code], where)
    if code == BFLOAT16:
        return (values.astype(np.uint32) << 16).view(FLOAT32)
    return values.astype(FLOAT32 if values.dtype == FLOAT32 else INT64)


def _buffer(raw: bytes, dtype: np.dtype[Any], where: str) -> Array:
    if len(raw) % dtype.itemsize:
        raise WireError(f"{where} has {len(raw)} bytes, which are no {dtype} values.")
    return np.frombuffer(raw, dtype)
