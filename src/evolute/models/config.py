"""The shape of a Llama-family network.

tensor_shapes(config) -> the tensors such a network has
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.models.rope import RopeScaling
from evolute.types import ModelError

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PARENT = dict.fromkeys(ATTENTION, "self_attn") | dict.fromkeys(MLP, "mlp")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of one decoder. `width` is the model's, `head_width` a head's."""

    architecture: str
    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ff_width: int
    context: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.width, self.num_layers, self.num_heads, self.num_kv_heads)
        if min(*sizes, self.head_width, self.ff_width, self.context) < 1:
            raise ModelError(f"every size of a model must be at least 1: {self}.")
        if self.num_heads % self.num_kv_heads or self.head_width % 2:
            raise ModelError(
                f"{self.num_heads} heads of width {self.head_width} on {self.num_kv_heads} kv "
                "heads cannot work: heads must be a multiple of kv heads, their width even. "
                "The model's config is damaged; fetch it again."
            )
        if (table := self.rope_scaling and self.rope_scaling.table) and (
            len(table) != self.head_width // 2
        ):
            raise ModelError(
                f"the table of rotary divisors has {len(table)} entries, a head has "
                f"{self.head_width // 2} pairs; fetch the model again."
            )

    @property
    def kv_width(self) -> int:
        """Numbers that keys and values of one token take, in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width

    def linear_shape(self, module: str) -> tuple[int, int]:
        """(outputs, inputs) of a linear layer, by its short name."""
        q, kv = self.num_heads * self.head_width, self.num_kv_heads * self.head_width
        return {
            "q_proj": (q, self.width),
            "k_proj": (kv, self.width),
            "v_proj": (kv, self.width),
            "o_proj": (self.width, q),
            "gate_proj": (self.ff_width, self.width),
            "up_proj": (self.ff_width, self.width),
            "down_proj": (self.width, self.ff_width),
        }[module]

    def has_bias(self, module: str) -> bool:
        """Whether a linear layer, by its short name, adds a bias."""
        if module == "o_proj":
            return self.output_bias
        return self.mlp_bias if module in MLP else self.qkv_bias


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape by name of every tensor of the network, in the order of the computation."""
    width = config.width
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, width)}
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
        for module, parent in PARENT.items():
            shape = config.linear_shape(module)
            shapes[f"{prefix}{parent}.{module}.weight"] = shape
            if config.has_bias(module):
                shapes[f"{prefix}{parent}.{module}.bias"] = shape[:1]
        if config.qk_norm:
            for norm in ("q_norm", "k_norm"):
                shapes[f"{prefix}self_attn.{norm}.weight"] = (config.head_width,)
    shapes["norm.weight"] = (width,)
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, width)
    return shapes


def check_architecture(kind: str) -> None:
    """Raises ModelError for an architecture we do not have."""
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"the model's architecture is {kind!r}; supported are {', '.join(ARCHITECTURES)}."
        )
