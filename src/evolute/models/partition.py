"""Which part of a network does one of N ranks hold? (Megatron: Shoeybi et al. 2019)

    check_size(config, size)            raises ConfigError, naming the sizes that are possible
    Partition(config, rank, size)
        .config                         of the rank's own, smaller network
        .slices(name) -> rows, columns  of a weight
        .weights(weights)               the rank's part of all weights, float32

q, k, v, gate and up are cut by outputs, whole heads together; o and down by inputs, so that their
products are sums over the ranks. Embedding and head are cut by rows of the vocabulary. Norms are
everybody's. With more ranks than kv heads, ranks share a kv head and each holds a copy of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evolute.models.config import ATTENTION, MLP, ModelConfig, tensor_shapes
from evolute.models.weights import ModelWeights
from evolute.types import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

ROW_SPLIT = ("o_proj", "down_proj")
COLUMN_SPLIT = tuple(module for module in ATTENTION + MLP if module not in ROW_SPLIT)
KV = ("k_proj", "v_proj")
VOCABULARY = ("embed_tokens", "lm_head")


def possible_sizes(config: ModelConfig) -> list[int]:
    """Numbers of ranks whose heads come out even."""
    heads, kv = config.num_heads, config.num_kv_heads
    return [n for n in range(1, heads + 1) if heads % n == 0 and (kv % n == 0 or n % kv == 0)]


def check_size(config: ModelConfig, size: int) -> None:
    """Raises ConfigError unless `size` ranks can share the heads."""
    possible = possible_sizes(config)
    if size not in possible:
        raise ConfigError(
            f"engine.tensor_parallel is {size}, but {config.num_heads} heads on "
            f"{config.num_kv_heads} kv heads cannot be shared evenly by {size} ranks; use "
            f"{', '.join(map(str, possible[:-1]))}{' or ' if possible[:-1] else ''}{possible[-1]}."
        )


def share(count: int, rank: int, size: int) -> slice:
    """Of `count` things; the first ranks have one more where it is uneven, as torch.tensor_split
    cuts."""
    each, more = divmod(count, size)
    first = rank * each + min(rank, more)
    return slice(first, first + each + (rank < more))


def width(part: slice) -> int:
    return int(part.stop - part.start)


@dataclass(frozen=True, slots=True)
class Partition:
    """What rank `rank` of `size` holds of the network `whole`. `check_size` comes first."""

    whole: ModelConfig
    rank: int
    size: int

    @property
    def config(self) -> ModelConfig:
        return replace(
            self.whole,
            vocab_size=width(self.share(self.whole.vocab_size)),
            num_heads=self.whole.num_heads // self.size,
            num_kv_heads=max(self.whole.num_kv_heads // self.size, 1),
            ff_width=width(self.share(self.whole.ff_width)),
        )

    def share(self, count: int) -> slice:
        return share(count, self.rank, self.size)

    def outputs(self, module: str) -> slice:
        """Rows of a linear layer's weight that the rank holds."""
        count = self.whole.linear_shape(module)[0]
        if module in ROW_SPLIT:
            return slice(0, count)
        if module in KV:
            wide = self.whole.head_width
            local = max(self.whole.num_kv_heads // self.size, 1)
            first = self.rank * self.whole.num_kv_heads // self.size
            return slice(first * wide, (first + local) * wide)
        return self.share(count)

    def inputs(self, module: str) -> slice:
        """Columns of a linear layer's weight that the rank holds."""
        count = self.whole.linear_shape(module)[1]
        return self.share(count) if module in ROW_SPLIT else slice(0, count)

    def slices(self, name: str) -> tuple[slice, ...]:
        """Rows, and for a matrix columns, of a weight."""
        *_, module, kind = ("", *name.split("."))
        if module in VOCABULARY:
            return self.share(self.whole.vocab_size), slice(None)
        if module not in COLUMN_SPLIT + ROW_SPLIT:
            return (slice(None),)
        rows = self.outputs(module)
        return (rows,) if kind == "bias" else (rows, self.inputs(module))

    def part(self, name: str, weight: Tensor) -> Tensor:
        """A copy of the rank's part of a whole weight. A bias of a sum counts once: at rank 0."""
        part = weight.detach()[self.slices(name)].clone()
        is_added = name.endswith(".bias") and name.split(".")[-2] in ROW_SPLIT
        return part.zero_() if is_added and self.rank else part

    def weights(self, weights: ModelWeights) -> ModelWeights:
        """Raises ModelError unless they are of the whole network."""
        weights.check(tensor_shapes(self.whole))
        return ModelWeights({name: self.part(name, weights.dense(name)) for name in weights})
