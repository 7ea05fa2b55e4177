"""The messages that the client sends and reads as protocol buffers.

read_forward_backward(bytes) -> ForwardBackward
write_forward_backward(result), write_sample(result) -> bytes
read_outputs, read_sample are their inverses (what is kept, for clients that want JSON)

A result is what `retrieve_future` tells: {"metrics", "loss_fn_outputs": [{name: array}]}, or
{"sequences": [...], "prompt_logprobs", ...}. Field numbers are those of the public client's
messages of these names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evolute.train.tinker import tensors, wire
from evolute.train.tinker.datums import RawDatum
from evolute.train.tinker.tensors import FLOAT32, Array
from evolute.types import RequestError, WireError

STOP, LENGTH = 0, 1
OUTPUT_TYPE = "ArrayRecord"
INT32 = np.dtype(np.int32)


def read_forward_backward(raw: bytes) -> dict[str, Any]:
    """model_id, seq_id, loss_fn, loss_fn_config, forward_only, data. Raises WireError, and
    RequestError for what only pictures and sounds have."""
    found = wire.grouped(raw)
    config: dict[str, Any] = {}
    for entry in found[5]:
        parts = wire.grouped(wire.bytes_of(entry))
        config[wire.text_of(parts[1][-1]) if parts[1] else ""] = (
            wire.double_of(parts[2][-1]) if parts[2] else 0.0
        )
    for entry in found[7]:
        parts = wire.grouped(wire.bytes_of(entry))
        value = wire.grouped(wire.bytes_of(parts[2][-1])) if parts[2] else {}
        name = wire.text_of(parts[1][-1]) if parts[1] else ""
        if value.get(2):
            config[name] = wire.text_of(value[2][-1])
        else:
            config[name] = wire.double_of(value[1][-1]) if value.get(1) else 0.0
    return {
        "model_id": wire.text_of(found[1][-1]) if found[1] else "",
        "seq_id": wire.int_of(found[2][-1]) if found[2] else None,
        "loss_fn": wire.text_of(found[4][-1]) if found[4] else "",
        "loss_fn_config": config,
        "forward_only": bool(found[6] and found[6][-1]),
        "data": [_datum(wire.bytes_of(one), i) for i, one in enumerate(found[3])],
    }


def read_head(raw: bytes) -> dict[str, Any]:
    """model_id, seq_id and forward_only alone. Raises WireError."""
    found = wire.grouped(raw)
    return {
        "model_id": wire.text_of(found[1][-1]) if found[1] else "",
        "seq_id": wire.int_of(found[2][-1]) if found[2] else None,
        "forward_only": bool(found[6] and found[6][-1]),
    }


def canonical(raw: bytes) -> bytes:
    """Equal for equal requests, whatever the order in which the writer put the entries of its
    maps. Raises WireError."""
    parts = []
    for number, value in wire.fields(raw):
        inner: object = value
        if number == 3:
            inner = sorted(map(repr, wire.fields(wire.bytes_of(value))))
        parts.append((number in (5, 7), number, repr(inner)))
    maps = sorted(part for part in parts if part[0])
    return repr([part for part in parts if not part[0]] + maps).encode()


def write_forward_backward(result: dict[str, Any]) -> bytes:
    outputs = result["loss_fn_outputs"]
    parts = [wire.text(1, OUTPUT_TYPE)]
    names = list(outputs[0]) if outputs else []
    shapes = [tuple(out[name].shape[1:] for name in names) for out in outputs]
    start = 0
    for end in range(1, len(outputs) + 1):  # one record for each run of like shapes
        if end == len(outputs) or shapes[end] != shapes[start]:
            parts.append(wire.blob(2, _record(outputs[start:end], names)))
            start = end
    for name, value in result["metrics"].items():
        parts.append(wire.blob(3, wire.text(1, name) + wire.double(2, value)))
    return b"".join(parts)


def read_outputs(raw: bytes) -> dict[str, Any]:
    found = wire.grouped(raw)
    outputs: list[dict[str, Array]] = []
    for record in found[2]:
        outputs += _read_record(wire.bytes_of(record))
    metrics = {}
    for entry in found[3]:
        parts = wire.grouped(wire.bytes_of(entry))
        metrics[wire.text_of(parts[1][-1])] = wire.double_of(parts[2][-1])
    return {"loss_fn_outputs": outputs, "metrics": metrics}


def write_sample(result: dict[str, Any]) -> bytes:
    parts = []
    for one in result["sequences"]:
        stop = STOP if one["stop_reason"] == "stop" else LENGTH
        sequence = wire.varint(1, stop) + wire.blob(2, _bytes(one["tokens"], INT32))
        sequence += wire.blob(3, _bytes(one["logprobs"], FLOAT32))
        if one.get("topk") is not None:
            sequence += wire.blob(4, _top(*one["topk"]))
        parts.append(wire.blob(1, sequence))
    if result.get("prompt_logprobs") is not None:
        parts.append(wire.blob(2, _bytes(result["prompt_logprobs"], FLOAT32)))
    if result.get("topk_prompt") is not None:
        parts.append(wire.blob(3, _top(*result["topk_prompt"])))
    parts.append(wire.varint(4, result.get("cached_tokens", 0)))
    if result.get("targets") is not None:
        parts.append(wire.blob(5, tensors.to_wire(result["targets"])))
    return b"".join(parts)


def read_sample(raw: bytes) -> dict[str, Any]:
    found = wire.grouped(raw)
    sequences = []
    for one in found[1]:
        parts = wire.grouped(wire.bytes_of(one))
        is_length = bool(parts[1]) and wire.int_of(parts[1][-1]) == LENGTH
        sequences.append(
            {
                "stop_reason": "length" if is_length else "stop",
                "tokens": _array(parts, 2, INT32),
                "logprobs": _array(parts, 3, FLOAT32),
                "topk": _read_top(parts, 4),
            }
        )
    return {
        "sequences": sequences,
        "prompt_logprobs": _array(found, 2, FLOAT32) if found[2] else None,
        "topk_prompt": _read_top(found, 3),
        "cached_tokens": wire.int_of(found[4][-1]) if found[4] else 0,
        "targets": tensors.from_wire(wire.bytes_of(found[5][-1]), "") if found[5] else None,
    }


# -- internals ---------------------------------------------------------------


def _datum(raw: bytes, index: int) -> RawDatum:
    found = wire.grouped(raw)
    tokens: list[Array] = []
    for chunk in found[1]:
        parts = wire.grouped(wire.bytes_of(chunk))
        if set(parts) - {1}:
            raise RequestError(f"data[{index}] has pictures or sounds; this model reads text.")
        inner = wire.grouped(wire.bytes_of(parts[1][-1])) if parts[1] else {}
        tokens.append(_array(inner, 1, INT32) if inner.get(1) else np.zeros(0, INT32))
    inputs = {}
    for entry in found[2]:
        parts = wire.grouped(wire.bytes_of(entry))
        name = wire.text_of(parts[1][-1]) if parts[1] else ""
        value = wire.bytes_of(parts[2][-1]) if parts[2] else b""
        inputs[name] = tensors.from_wire(value, f"data[{index}].loss_fn_inputs.{name}")
    joined = np.concatenate(tokens) if tokens else np.zeros(0, INT32)
    return RawDatum(joined.astype(np.int64), inputs)


def _record(outputs: list[dict[str, Array]], names: list[str]) -> bytes:
    parts = [wire.text(1, OUTPUT_TYPE)]
    for name in names:
        arrays = [np.ascontiguousarray(out[name]) for out in outputs]
        offsets = np.cumsum([0, *(a.nbytes for a in arrays)]).astype(np.int64)
        batched = wire.blob(1, b"".join(a.tobytes() for a in arrays))
        batched += wire.blob(2, offsets.tobytes())
        batched += wire.varint(3, 1 if arrays[0].dtype == FLOAT32 else 2)
        batched += wire.packed(4, arrays[0].shape[1:])
        parts.append(wire.blob(2, wire.text(1, name) + wire.blob(2, batched)))
    parts.append(wire.varint(3, len(outputs)))
    return b"".join(parts)


def _read_record(raw: bytes) -> list[dict[str, Array]]:
    found = wire.grouped(raw)
    outputs: list[dict[str, Array]] = [{} for _ in range(wire.int_of(found[3][-1]))]
    for entry in found[2]:
        parts = wire.grouped(wire.bytes_of(entry))
        batched = wire.grouped(wire.bytes_of(parts[2][-1]))
        dtype = tensors.WIRE_DTYPES[wire.int_of(batched[3][-1])]
        data, trailing = wire.bytes_of(batched[1][-1]), wire.ints_of(batched[4])
        offsets = np.frombuffer(wire.bytes_of(batched[2][-1]), np.int64)
        for out, start, end in zip(outputs, offsets, offsets[1:]):
            flat = np.frombuffer(data[start:end], dtype)
            out[wire.text_of(parts[1][-1])] = flat.reshape(-1, *trailing)
    return outputs


def _top(ids: Array, logprobs: Array) -> bytes:
    length, k = ids.shape
    parts = (wire.blob(1, _bytes(ids, INT32)), wire.blob(2, _bytes(logprobs, FLOAT32)))
    return b"".join(parts) + wire.varint(3, k) + wire.varint(4, length)


def _read_top(found: dict[int, list[wire.Value]], number: int) -> tuple[Array, Array] | None:
    if not found.get(number):
        return None
    parts = wire.grouped(wire.bytes_of(found[number][-1]))
    shape = (wire.int_of(parts[4][-1]), wire.int_of(parts[3][-1]))
    return _array(parts, 1, INT32).reshape(shape), _array(parts, 2, FLOAT32).reshape(shape)


def _bytes(values: Any, dtype: np.dtype[Any]) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()


def _array(found: dict[int, list[wire.Value]], number: int, dtype: np.dtype[Any]) -> Array:
    raw = wire.bytes_of(found[number][-1]) if found.get(number) else b""
    if len(raw) % dtype.itemsize:
        raise WireError(f"{len(raw)} bytes are no {dtype} values.")
    return np.frombuffer(raw, dtype)
