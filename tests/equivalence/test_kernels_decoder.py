"""The native decoder gives the torch decoder's logits, alone or batched, whole or in chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evolute.models import Decoder, ModelConfig
from evolute.models.decoder import causal_attention

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
HEADS, KV_HEADS, WIDTH, VOCABULARY = 6, 2, 96, 200
NAMES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
NAMES |= {"o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj"}
NAMES |= {"down": "mlp.down_proj"}
PROMPTS = [np.random.default_rng(i).integers(0, VOCABULARY, n) for i, n in enumerate((1, 70, 133))]


@pytest.fixture(scope="module")
def oracle() -> Decoder:
    torch.manual_seed(0)
    config = ModelConfig(
        architecture="llama",
        num_layers=2, width=WIDTH, num_heads=HEADS, num_kv_heads=KV_HEADS, head_width=16,
        ff_width=160, vocab_size=VOCABULARY, context=256, norm_eps=1e-5, rope_theta=10000.0,
        tie_embeddings=True,
    )  # fmt: skip
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (parameter.dim() == 1)
    return decoder.requires_grad_(False)


def native(oracle: Decoder, bits: int, threads: int) -> kernels.NativeDecoder:
    c = oracle.config
    shape = kernels.DecoderShape(
        c.num_layers, c.width, c.num_heads, c.num_kv_heads, c.head_width, c.ff_width,
        c.vocab_size, c.norm_eps,
    )  # fmt: skip
    decoder = kernels.NativeDecoder(shape, oracle.rotary.numpy(), threads)
    weights = {name: value.numpy() for name, value in oracle.named_parameters()}
    pack = kernels.PackedLinear.from_float32
    if bits < 32:
        pack = lambda w: kernels.PackedLinear.quantize(w, bits)  # noqa: E731
    for i in range(c.num_layers):
        for module, name in NAMES.items():
            decoder.set_linear(i, module, pack(weights[f"layers.{i}.{name}.weight"]))
        decoder.set_norm(i, "attention", weights[f"layers.{i}.input_layernorm.weight"])
        decoder.set_norm(i, "mlp", weights[f"layers.{i}.post_attention_layernorm.weight"])
    embedding = kernels.PackedLinear.from_float32(weights["embed_tokens.weight"])
    decoder.set_vocabulary(embedding, embedding)
    decoder.set_final_norm(weights["norm.weight"])
    return decoder


def step(
    decoder: kernels.NativeDecoder,
    pool: kernels.KvPool,
    size: int,
    parts: list[tuple[int, int, int]],
) -> NDArray[np.float32]:
    """Logits of every token of parts (prompt, start, end); prompt i owns its own run of pages."""
    pages = -(-256 // size)
    ids = np.concatenate([PROMPTS[i][a:b] for i, a, b in parts])
    return decoder.forward(
        pool,
        token_ids=ids,
        positions=np.concatenate([np.arange(a, b) for _, a, b in parts]),
        row_start=np.cumsum([0] + [b - a for _, a, b in parts]),
        context_len=np.array([b for _, _, b in parts]),
        page_table=np.array([np.arange(pages)[::-1] + i * pages for i, _, _ in parts]),
        adapter=np.full(len(parts), -1),
        logit_rows=np.arange(len(ids)),
    )


def new_pool(size: int, dtype: str = "float32") -> kernels.KvPool:
    return kernels.KvPool(2, 3 * -(-256 // size), size, KV_HEADS, 16, dtype)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "generic"])
@pytest.mark.parametrize("size", [1, 5, 16])
def test_native_logits_are_torch_logits(oracle: Decoder, isa: str, size: int) -> None:
    before = kernels.isa()
    try:
        kernels.set_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        parts = [(i, 0, len(p)) for i, p in enumerate(PROMPTS)]
        got = step(native(oracle, 32, 2), new_pool(size), size, parts)
    finally:
        kernels.set_isa(before)
    lengths = [len(p) for p in PROMPTS]
    ids = torch.from_numpy(np.concatenate(PROMPTS))
    positions = torch.cat([torch.arange(n) for n in lengths])
    hidden = oracle(ids, positions, causal_attention(lengths))
    expected = (hidden @ oracle.head_weight.T).numpy()
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [4, 8, 32])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batch_chunks_and_threads_do_not_change_a_bit(
    oracle: Decoder, bits: int, dtype: str
) -> None:
    parts = [(i, 0, len(p)) for i, p in enumerate(PROMPTS)]
    batched = step(native(oracle, bits, 2), new_pool(16, dtype), 16, parts)
    decoder, pool = native(oracle, bits, 1), new_pool(16, dtype)
    cut = [(0, 0, 1), (1, 0, 7), (1, 7, 64), (1, 64, 69), (1, 69, 70), (2, 0, 65), (2, 65, 133)]
    alone = np.concatenate([step(decoder, pool, 16, [part]) for part in cut])
    assert np.array_equal(batched, alone)


def test_bad_page_is_refused(oracle: Decoder) -> None:
    pool = kernels.KvPool(2, 1, 16, KV_HEADS, 16, "float32")
    with pytest.raises(ValueError, match="page"):
        step(native(oracle, 32, 1), pool, 16, [(1, 0, 70)])
