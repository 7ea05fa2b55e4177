"""GGUF files: blocks equal the gguf package's own dequantisation, headers its own reader."""

import dataclasses
import struct

import gguf
import numpy as np
import pytest
import torch

from evolute.models import BlockQuantized, Decoder, RopeScaling, load_model, rotary_table
from evolute.models.files.config_json import to_hugging_face
from evolute.models.files.gguf_header import TensorInfo, read_header
from evolute.models.files.gguf_tensors import DECODERS, _unpermute, _weight
from evolute.models.loading import embedded_file
from evolute.models.tiny import CONFIG, tiny_weights
from evolute.types import ModelError

NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    parts = name.removesuffix(".weight").split(".", 2)
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{NAMES[parts[2]]}.weight"
    return f"{NAMES[parts[0]]}.weight"


def interleaved(weight, heads):
    """Rows as llama.cpp orders them for q and k."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def write_tiny(path, *, extra=None, change=None):
    """The tiny model as llama.cpp's converter would write it."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(CONFIG.num_layers)
    writer.add_context_length(CONFIG.context)
    writer.add_embedding_length(CONFIG.width)
    writer.add_feed_forward_length(CONFIG.ff_width)
    writer.add_head_count(CONFIG.num_heads)
    writer.add_head_count_kv(CONFIG.num_kv_heads)
    writer.add_layer_norm_rms_eps(CONFIG.norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["t", "1", *(f"t{i}" for i in range(1, CONFIG.vocab_size - 1))])
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(258)
    if change:
        change(writer)
    weights = tiny_weights()
    for name in weights:
        value = weights.dense(name).numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = CONFIG.num_heads if "q_proj" in name else CONFIG.num_kv_heads
            value = interleaved(value, heads)
        writer.add_tensor(gguf_name(name), value)
    for name, value in (extra or {}).items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
    weight = _weight(TensorInfo("t", kind, (6, 2 * block), raw.reshape(-1)))
    dense = torch.from_numpy(weight.array() if isinstance(weight, BlockQuantized) else weight)
    expected = torch.from_numpy(gguf.dequantize(raw, kind_id)).reshape(6, -1)
    torch.testing.assert_close(dense, expected, rtol=1e-6, atol=1e-6)


def test_rows_of_q_and_k_are_put_back():
    weight = torch.arange(8.0)[:, None]
    assert torch.equal(_unpermute(interleaved(weight, 2), 2), weight)


def test_an_unsupported_type_names_tensor_and_choices():
    tensor = TensorInfo("blk.0.attn_q.weight", "IQ4_XS", (1, 256), np.zeros(136, np.uint8))
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight has type IQ4_XS.*Q4_K"):
        _weight(tensor)


def test_the_header_equals_the_gguf_package(tmp_path):
    def change(writer):
        writer.add_array("test.floats", [1.5, -2.0])
        writer.add_array("test.small", [1, 2, 300])
        writer.add_bool("test.truth", True)
        writer.add_float64("test.precise", 0.1)

    path = write_tiny(tmp_path / "m.gguf", change=change)
    header, reader = read_header(path), gguf.GGUFReader(str(path))
    theirs = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert header.fields == theirs and len(theirs) > 12
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert ours.kind == tensor.tensor_type.name
        assert ours.data.tobytes() == tensor.data.tobytes()


@pytest.mark.slow
def test_the_header_of_the_embedded_model_equals_the_gguf_package():
    path = embedded_file()
    theirs = gguf.GGUFReader(str(path)).fields
    ours = read_header(path).fields
    assert ours.keys() == {key for key in theirs if not key.startswith("GGUF.")}
    assert all(theirs[key].contents() == value for key, value in ours.items())


@pytest.fixture(scope="module")
def tiny_bytes(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("gguf") / "m.gguf")
    return path.read_bytes()


def loads_or_says_why(path):
    """The error's text, "" when it loads; anything but ModelError rises."""
    try:
        load_model(str(path))
    except ModelError as error:
        return str(error)
    return ""


def test_a_shortened_file_is_refused(tiny_bytes, tmp_path):
    path = tmp_path / "short.gguf"
    for length in np.random.default_rng(0).integers(0, len(tiny_bytes), 40):
        path.write_bytes(tiny_bytes[:length])
        assert "Fetch it again" in loads_or_says_why(path), length


def test_a_damaged_header_raises_nothing_but_model_error(tiny_bytes, tmp_path):
    header = len(tiny_bytes) - 4 * sum(tiny_weights().dense(n).numel() for n in tiny_weights())
    generator, path = np.random.default_rng(0), tmp_path / "damaged.gguf"
    messages = set()
    for _ in range(150):
        damaged = np.frombuffer(tiny_bytes, np.uint8).copy()
        places = generator.integers(0, header, 4)
        damaged[places] = generator.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        messages.add(loads_or_says_why(path))
    assert len(messages) > 20


def test_a_length_beyond_the_file_costs_no_memory(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(100))
    assert "more than it has room for" in loads_or_says_why(path)


def test_a_tensor_that_no_layer_uses_is_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", extra={"blk.0.attn_sinks.weight": np.zeros(4, "f4")})
    assert "attn_sinks" in loads_or_says_why(path)


def test_biases_on_some_layers_only_are_refused(tmp_path):
    path = write_tiny(tmp_path / "m.gguf", extra={"blk.1.attn_q.bias": np.zeros(64, "f4")})
    assert "layers.1.self_attn.q_proj.bias" in loads_or_says_why(path)


@pytest.mark.parametrize("key", ["llama.block_count", "llama.embedding_length"])
def test_a_missing_size_is_named(key, tmp_path, tiny_bytes):
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_bytes.replace(key.encode(), key[:-1].encode() + b"X"))
    assert key in loads_or_says_why(path)


def test_a_written_model_is_read_back(tmp_path):
    model, weights = load_model(str(write_tiny(tmp_path / "m.gguf"))), tiny_weights()
    assert model.weights.fingerprint() == weights.fingerprint()
    expected = dataclasses.replace(CONFIG, bos_token_id=None, norm_eps=float(np.float32(1e-5)))
    assert model.config == expected


def test_rope_freqs_are_the_llama3_scaling(tmp_path):
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 32)
    plain = Decoder(CONFIG).get_buffer("rotary")
    expected = Decoder(dataclasses.replace(CONFIG, rope_scaling=scaling)).get_buffer("rotary")
    waves = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)
    smooth = np.clip((32 / waves - 1) / 3, 0, 1)  # as llama.cpp's converter makes the table
    table = (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)
    path = write_tiny(tmp_path / "m.gguf", extra={"rope_freqs.weight": table})
    got = Decoder(load_model(str(path)).config).get_buffer("rotary")
    torch.testing.assert_close(got[:500], expected[:500], rtol=0, atol=1e-4)
    assert (got[:500] - plain[:500]).abs().max() > 0.1


def test_yarn_is_read_as_transformers_computes_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def change(writer):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(64)

    config = load_model(str(write_tiny(tmp_path / "m.gguf", change=change))).config
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    values = to_hugging_face(CONFIG) | {"rope_parameters": yarn, "rope_theta": 10000.0}
    cos, sin = LlamaRotaryEmbedding(transformers.LlamaConfig(**values))(
        torch.zeros(1), torch.arange(CONFIG.context)[None]
    )
    expected = torch.cat([cos[0, :, :8], sin[0, :, :8]], -1)
    torch.testing.assert_close(torch.from_numpy(rotary_table(config)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_rope_dimension_count(8), "a part of each head only"),
        (lambda w: w.add_sliding_window(8), "has a sliding window"),
        (lambda w: w.add_uint16("split.count", 3), r"one of 3 parts.*gguf-split --merge"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), "'longrope'"),
        (lambda w: w.add_tokenizer_pre("chameleon"), "pre-tokenizer is 'chameleon'"),
    ],
)
def test_what_a_file_asks_beyond_the_network_is_refused(change, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load_model(str(write_tiny(tmp_path / "m.gguf", change=change)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-135", "Did you mean 'smollm2-135m'"),
        ("missing.gguf", "does not exist"),
        ("damaged.gguf", "damaged or incomplete"),
        ("nothing.gguf", "damaged or incomplete"),
        ("empty", "has no config.json"),
    ],
)
def test_a_bad_model_names_the_fix(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    (tmp_path / "nothing.gguf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=message):
        load_model(name)
