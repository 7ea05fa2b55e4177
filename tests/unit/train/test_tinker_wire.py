"""Bytes of the training API: what is written is read back, and damaged bytes are told."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.train.tinker import messages, tensors, wire
from evolute.types import RequestError, WireError


def datum_bytes(tokens, inputs):
    """A Datum as the client writes it."""
    chunk = wire.blob(1, wire.blob(1, np.array(tokens, np.int32).tobytes()))
    out = wire.blob(1, chunk)
    for name, array in inputs.items():
        out += wire.blob(2, wire.text(1, name) + wire.blob(2, tensors.to_wire(np.array(array))))
    return out


def request_bytes(datums, *, seq=1, loss="ppo", config=None, forward_only=False):
    out = wire.text(1, "model") + wire.varint(2, seq)
    out += b"".join(wire.blob(3, datum) for datum in datums) + wire.text(4, loss)
    for name, value in (config or {}).items():
        inner = wire.text(2, value) if isinstance(value, str) else wire.double(1, value)
        out += wire.blob(7, wire.text(1, name) + wire.blob(2, inner))
    return out + wire.varint(6, forward_only)


def test_a_request_is_read_as_it_was_written():
    weights = np.array([0, 0.5, -2], np.float32)
    raw = request_bytes(
        [datum_bytes([1, 2, 300], {"target_tokens": np.array([2, 3, 4]), "weights": weights})],
        config={"clip_low_threshold": 0.75, "divergence": "kl"},
        forward_only=True,
    )
    body = messages.read_forward_backward(raw)
    assert (body["model_id"], body["seq_id"], body["loss_fn"]) == ("model", 1, "ppo")
    assert body["forward_only"]
    assert body["loss_fn_config"] == {"clip_low_threshold": 0.75, "divergence": "kl"}
    (datum,) = body["data"]
    assert datum.tokens.tolist() == [1, 2, 300]
    assert datum.inputs["weights"].tolist() == weights.tolist()
    assert datum.inputs["target_tokens"].dtype == np.int64


def test_the_order_of_map_entries_does_not_matter():
    inputs = {"target_tokens": np.array([2]), "weights": np.array([1.0], np.float32)}
    there = [datum_bytes([1], inputs)]
    back = [datum_bytes([1], dict(reversed(inputs.items())))]
    config = {"a": 1.0, "b": "x"}
    one = request_bytes(there, config=config)
    two = request_bytes(back, config=dict(reversed(config.items())))
    assert one != two
    assert messages.canonical(one) == messages.canonical(two)
    assert messages.canonical(one) != messages.canonical(request_bytes(there, seq=2, config=config))


@given(st.binary(max_size=200))
def test_damaged_bytes_are_told(raw):
    for read in (messages.read_forward_backward, messages.read_head, messages.canonical):
        with contextlib.suppress(WireError, RequestError):
            read(raw)


@given(st.data())
def test_a_request_with_a_byte_changed_is_told_or_read(data):
    inputs = {"target_tokens": np.array([2, 3]), "weights": np.array([1.0, 0.0], np.float32)}
    raw = bytearray(request_bytes([datum_bytes([1, 2], inputs)], config={"x": 1.0}))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError, RequestError):
        messages.read_forward_backward(bytes(raw))


def test_outputs_of_several_shapes_keep_their_order():
    rng = np.random.default_rng(0)
    shapes = [(3,), (5,), (2, 4), (1,)]
    outputs = [{"logprobs": rng.normal(size=shape).astype(np.float32)} for shape in shapes]
    raw = messages.write_forward_backward(
        {"loss_fn_outputs": outputs, "metrics": {"loss:sum": 2.0}}
    )
    found = messages.read_outputs(raw)
    assert found["metrics"] == {"loss:sum": 2.0}
    for mine, theirs in zip(found["loss_fn_outputs"], outputs, strict=True):
        np.testing.assert_array_equal(mine["logprobs"], theirs["logprobs"])


def test_a_sample_is_read_back():
    top = (np.array([[1, 2]], np.int32), np.array([[-0.5, -1]], np.float32))
    one = {"stop_reason": "length", "tokens": [7], "logprobs": [-0.5], "topk": top}
    result = {
        "sequences": [one, one | {"stop_reason": "stop", "topk": None}],
        "prompt_logprobs": np.array([np.nan, -1], np.float32),
        "topk_prompt": top,
        "cached_tokens": 3,
        "targets": np.zeros((1, 2), np.float32),
    }
    found = messages.read_sample(messages.write_sample(result))
    assert [s["stop_reason"] for s in found["sequences"]] == ["length", "stop"]
    assert found["sequences"][0]["tokens"].tolist() == [7]
    np.testing.assert_array_equal(found["sequences"][0]["topk"][1], top[1])
    np.testing.assert_array_equal(found["prompt_logprobs"], result["prompt_logprobs"])
    assert found["cached_tokens"] == 3 and found["targets"].shape == (1, 2)


def test_a_sparse_tensor_is_laid_out():
    value = {
        "data": [5, 6, 7],
        "dtype": "int64",
        "shape": [3, 4],
        "sparse_crow_indices": [0, 2, 2, 3],
        "sparse_col_indices": [0, 3, 1],
    }
    dense = tensors.from_json(value, "x")
    assert dense.tolist() == [[5, 0, 0, 6], [0, 0, 0, 0], [0, 7, 0, 0]]


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float64"},
        {"data": "text"},
        {"data": [1, None]},
        {"data": [True]},
        {"data": [2**70]},
        {"shape": [2]},
        {"shape": [-1]},
        {"sparse_crow_indices": [0, 1]},
        {"sparse_col_indices": [9], "sparse_crow_indices": [0, 1], "shape": [1, 2]},
        {"sparse_col_indices": [0], "sparse_crow_indices": [0, 2], "shape": [1, 2]},
        {"more": 1},
    ],
)
def test_what_is_no_tensor_is_refused(change):
    with pytest.raises(RequestError, match="x"):
        tensors.from_json({"data": [1], "dtype": "int64", "shape": [1]} | change, "x")
