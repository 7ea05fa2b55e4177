"""Every quantisation we read equals the gguf package's own dequantisation."""

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch

from evolute.models import BlockQuantized, load_model
from evolute.models.gguf_file import DECODERS, _unpermute, _weight
from evolute.types import ModelError


@pytest.mark.parametrize("kind", [*DECODERS, "Q6_K"])
def test_blocks_equal_gguf(kind):
    generator = np.random.default_rng(0)
    kind_id = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[kind_id]
    raw = generator.integers(0, 256, (6, 2 * size), dtype=np.uint8)
    halves = {"Q4_K": [0, 2], "Q6_K": [size - 2], "Q4_1": [0, 2], "Q5_1": [0, 2]}.get(kind, [0])
    for start in (offset + b * size for b in range(2) for offset in halves):
        values = generator.normal(size=(6, 1)).astype(np.float16)
        raw[:, start : start + 2] = values.view(np.uint8)
    tensor = SimpleNamespace(name="t", tensor_type=kind_id, shape=[2 * block, 6], data=raw)
    weight = _weight(tensor)
    dense = weight.dense() if isinstance(weight, BlockQuantized) else weight
    expected = torch.from_numpy(gguf.dequantize(raw, kind_id)).reshape(6, -1)
    torch.testing.assert_close(dense, expected, rtol=1e-6, atol=1e-6)


def test_rows_of_q_and_k_are_put_back():
    weight = torch.arange(8.0)[:, None]
    interleaved = weight.reshape(2, 2, 2, 1).swapaxes(1, 2).reshape(8, 1)  # as llama.cpp writes it
    assert torch.equal(_unpermute(interleaved, 2), weight)


def test_an_unsupported_type_names_tensor_and_choices():
    tensor = SimpleNamespace(
        name="blk.0.attn_q.weight",
        tensor_type=gguf.GGMLQuantizationType.IQ4_XS,
        shape=[256, 1],
        data=np.zeros((1, 136), np.uint8),
    )
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight has type IQ4_XS.*Q4_K"):
        _weight(tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("missing.gguf", "does not exist"),
        ("damaged.gguf", "damaged or incomplete"),
        ("empty", "has no config.json"),
    ],
)
def test_a_bad_model_names_the_fix(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message):
        load_model(name)
