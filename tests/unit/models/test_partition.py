"""Parts of a network: together they are the network, and what cannot be cut is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evolute.models import Decoder, ModelConfig, load_model
from evolute.models.config import tensor_shapes
from evolute.models.decoder import causal_attention
from evolute.models.partition import Partition, check_size, possible_sizes
from evolute.models.tiny import tiny_weights
from evolute.types import ConfigError, ModelError

TINY = load_model("tiny")


def config_of(heads, kv, **changes):
    values = {"width": 12, "num_layers": 1, "head_width": 4, "ff_width": 17, "vocab_size": 29}
    return ModelConfig("qwen2", num_heads=heads, num_kv_heads=kv, context=64, **(values | changes))


def test_the_sizes_that_are_possible_are_named():
    assert possible_sizes(config_of(9, 3)) == [1, 3, 9]
    assert possible_sizes(config_of(8, 2)) == [1, 2, 4, 8]
    assert possible_sizes(config_of(12, 4)) == [1, 2, 4, 12]
    check_size(config_of(9, 3), 3)
    with pytest.raises(
        ConfigError,
        match=r"tensor_parallel is 2, but 9 heads on 3 kv heads.*use "
        r"1, 3 or 9",
    ):
        check_size(config_of(9, 3), 2)


@given(
    shape=st.sampled_from([(4, 2), (4, 4), (6, 3), (4, 1), (8, 2)]),
    switches=st.fixed_dictionaries(
        {
            "tie_embeddings": st.booleans(),
            "qkv_bias": st.booleans(),
            "output_bias": st.booleans(),
            "mlp_bias": st.booleans(),
            "qk_norm": st.booleans(),
        }
    ),
    pick=st.integers(0, 10),
)
@settings(max_examples=40, deadline=None)
def test_partial_sums_and_rows_add_up_to_the_network(shape, switches, pick):
    """All ranks in turn, layer by layer, as they would be side by side."""
    config = config_of(*shape, **switches)
    size = possible_sizes(config)[pick % len(possible_sizes(config))]
    weights = tiny_weights(config)
    whole = Decoder(config)
    whole.load(weights)
    tokens = torch.tensor([0, 28, 14, 15, 3])
    positions = torch.arange(5)
    attend = causal_attention([5])
    with torch.no_grad():
        hidden = whole(tokens, positions, attend)
        want = hidden @ whole.head_weight.T
        parts = []
        for rank in range(size):
            partition = Partition(config, rank, size)
            part = Decoder(partition.config)
            part.load(partition.weights(weights))
            part.first_token = partition.share(config.vocab_size).start
            parts.append(part)
        x = sum(part.embed(tokens, lambda y: y) for part in parts)
        assert torch.allclose(x, whole.embed_tokens(tokens))
        half = config.head_width // 2
        table = whole.get_buffer("rotary")[positions].unsqueeze(1)
        rotary = (table[..., :half], table[..., half:])
        for blocks in zip(*(part.layers for part in parts)):
            first = blocks[0]
            y = first.input_layernorm(x)
            x = x + sum(block._attention(y, rotary, attend, None) for block in blocks)
            y = first.post_attention_layernorm(x)
            x = x + sum(block._mlp(y, None) for block in blocks)
        x = parts[0].norm(x)
        got = torch.cat([x @ part.head_weight.T for part in parts], -1)
    assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_cover_each_weight_and_hold_nothing_twice(size):
    weights = TINY.weights
    parts = [Partition(TINY.config, rank, size) for rank in range(size)]
    for name, shape in tensor_shapes(TINY.config).items():
        seen = torch.zeros(shape)
        for part in parts:
            seen[part.slices(name)] += 1
            assert torch.equal(part.weights(weights)[name], weights.dense(name)[part.slices(name)])
        is_norm = name.endswith("norm.weight")
        copies = max(size // TINY.config.num_kv_heads, 1)
        is_shared = "k_proj" in name or "v_proj" in name
        assert (seen == (size if is_norm else copies if is_shared else 1)).all(), name
    with pytest.raises(ModelError, match="lacks"):
        parts[0].weights(type(weights)({}))
