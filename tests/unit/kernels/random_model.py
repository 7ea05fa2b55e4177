"""A random model, steps of it, and the same steps by the references."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from evolute.kernels import reference
from evolute.kernels.reference import HeadNorm, PagedRows, Pages
from evolute.models import LoraConfig, LoraWeights, PackedLora, pack
from evolute.models.lora import MODULES as LORA_MODULES

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
CONTEXT, VOCABULARY = 160, 75
SHAPE = kernels.DecoderShape(2, 48, 6, 2, 16, 80, VOCABULARY, 1e-5)
SHAPES = {
    "plain": SHAPE,
    "one kv head, wide heads": dataclasses.replace(SHAPE, num_kv_heads=1, head_width=48),
    "normed heads": dataclasses.replace(SHAPE, qk_norm=True, num_kv_heads=6),
    "window": dataclasses.replace(SHAPE, sliding_window=21),
}
MODULES = ("q", "k", "v", "o", "gate", "up", "down")
Adapter = dict[tuple[int, str], tuple[Tensor, Tensor]]
NAMES = dict(zip(MODULES, LORA_MODULES))


def packed(weights: Adapter, scale: float) -> PackedLora:
    tensors = {(layer, NAMES[m]): pair for (layer, m), pair in weights.items()}
    return pack(LoraWeights(LoraConfig(rank=1, alpha=scale), tensors))


def set_adapter(decoder, index: int, weights: Adapter, scale: float) -> None:
    """In memory of its own."""
    found = packed(weights, scale)
    decoder.set_adapter(index, found.table(), found.flat, found.scale)


def size_of(shape: kernels.DecoderShape, module: str) -> tuple[int, int]:
    """Outputs and inputs."""
    q, kv = shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
    outputs = dict(zip(MODULES, (q, kv, kv, shape.width, shape.ff_width, shape.ff_width)))
    inputs = {"o": q, "down": shape.ff_width}
    return outputs.get(module, shape.width), inputs.get(module, shape.width)


@dataclass
class Model:
    """Random weights; the references' step over pages of its own."""

    shape: kernels.DecoderShape
    adapters: dict[int, tuple[Adapter, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        s = self.shape
        self.linear = {
            (layer, m): (torch.randn(size_of(s, m)) * 0.2, torch.randn(size_of(s, m)[0]) * 0.2)
            for layer in range(s.num_layers)
            for m in MODULES
        }
        widths = {"attention": s.width, "mlp": s.width}
        widths |= {"q": s.head_width, "k": s.head_width} if s.qk_norm else {}
        self.norms = {
            (layer, name): torch.rand(width) + 0.5
            for layer in range(s.num_layers)
            for name, width in widths.items()
        }
        self.final_norm = torch.rand(s.width) + 0.5
        self.embedding, self.head = torch.randn(2, VOCABULARY, s.width)
        angle = torch.arange(CONTEXT)[:, None] * 10.0 ** -torch.linspace(0, 3, s.head_width // 2)
        self.rotary = torch.cat([angle.cos(), angle.sin()], 1)

    def native(self, threads: int = 2) -> kernels.NativeDecoder:
        decoder = kernels.NativeDecoder(self.shape, self.rotary.numpy(), threads)
        pack = lambda w: kernels.PackedLinear.from_float32(w.numpy())  # noqa: E731
        for (layer, module), (weight, bias) in self.linear.items():
            decoder.set_linear(layer, module, pack(weight), bias.numpy())
        for (layer, name), weight in self.norms.items():
            decoder.set_norm(layer, name, weight.numpy())
        decoder.set_final_norm(self.final_norm.numpy())
        decoder.set_vocabulary(pack(self.embedding), pack(self.head))
        for index, (weights, scale) in self.adapters.items():
            set_adapter(decoder, index, weights, scale)
        return decoder

    def pages(self, num_pages: int, page_size: int, dtype: torch.dtype) -> list[Pages]:
        size = (num_pages, page_size, self.shape.num_kv_heads, self.shape.head_width)
        return [
            Pages(torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype))
            for _ in range(self.shape.num_layers)
        ]

    def step(self, pages: list[Pages], token_ids: Tensor, rows: PagedRows, adapter: Tensor):
        """Logits [T, V] by the references."""
        s, extra = self.shape, None
        x = self.embedding[token_ids]
        for layer in range(s.num_layers):
            h = reference.rms_norm(x, self.norms[layer, "attention"], s.norm_eps, extra)
            q, k, v = (self._linear(layer, m, h, rows, adapter) for m in "qkv")
            norm = None
            if s.qk_norm:
                norm = HeadNorm(self.norms[layer, "q"], self.norms[layer, "k"], s.norm_eps)
            q, k, v = (y.view(len(x), -1, s.head_width) for y in (q, k, v))
            q = reference.rotate_and_store(q, k, v, self.rotary, rows, pages[layer], norm)
            o = reference.paged_attention(q, pages[layer], rows, s.sliding_window).flatten(1)
            extra = self._linear(layer, "o", o, rows, adapter)
            h = reference.rms_norm(x, self.norms[layer, "mlp"], s.norm_eps, extra)
            gate, up = (self._linear(layer, m, h, rows, adapter) for m in ("gate", "up"))
            extra = self._linear(layer, "down", reference.silu_mul(gate, up), rows, adapter)
        return reference.rms_norm(x, self.final_norm, s.norm_eps, extra) @ self.head.T

    def _linear(self, layer: int, module: str, x: Tensor, rows: PagedRows, adapter: Tensor):
        weight, bias = self.linear[layer, module]
        y = x @ weight.T + bias
        of_row = adapter[rows.owner.long()]
        for index, (weights, scale) in self.adapters.items():
            if (layer, module) in weights:
                a, b = weights[layer, module]
                mine = of_row == index
                y[mine] += scale * (x[mine] @ a.T) @ b.T
        return y


@dataclass
class Step:
    """A step's arrays; `changed` breaks one of them."""

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    row_start: NDArray[np.int32]
    context_len: NDArray[np.int32]
    page_table: NDArray[np.int32]
    adapter: NDArray[np.int32]
    logit_rows: NDArray[np.int32]

    @classmethod
    def of(cls, spans, page_size: int, adapter=None, seed: int = 0) -> Step:
        """Sequence b computes positions start : end; its pages are spread over all, reversed."""
        num = -(-CONTEXT // page_size)
        counts = [end - start for start, end in spans]
        table = [np.arange(num)[::-1] * len(spans) + b for b in range(len(spans))]
        arrays = (
            np.random.default_rng(seed).integers(0, VOCABULARY, sum(counts)),
            np.concatenate([np.arange(*span) for span in spans]),
            np.cumsum([0, *counts]),
            [end for _, end in spans],
            table,
            [-1] * len(spans) if adapter is None else adapter,
            np.arange(sum(counts)),
        )
        return cls(*(np.array(x, np.int32) for x in arrays))

    def run(self, decoder: kernels.NativeDecoder, pool: kernels.KvPool) -> NDArray[np.float32]:
        return decoder.forward(pool, **{f.name: getattr(self, f.name) for f in
                                        dataclasses.fields(self)})  # fmt: skip

    def by_reference(self, model: Model, pages: list[Pages]) -> NDArray[np.float32]:
        rows = PagedRows.of(*(torch.from_numpy(x) for x in
                              (self.row_start, self.positions, self.page_table)))  # fmt: skip
        ids = torch.from_numpy(self.token_ids).long()
        return model.step(pages, ids, rows, torch.from_numpy(self.adapter)).numpy()


def pool_of(
    shape: kernels.DecoderShape, page_size: int, sequences: int, dtype: str = "float32"
) -> kernels.KvPool:
    num_pages = -(-CONTEXT // page_size) * sequences
    return kernels.KvPool(
        shape.num_layers, num_pages, page_size, shape.num_kv_heads, shape.head_width, dtype
    )


def random_adapter(shape: kernels.DecoderShape, ranks: dict[str, int], seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    found: Adapter = {}
    for layer in range(shape.num_layers):
        for module, rank in ranks.items():
            n, m = size_of(shape, module)
            found[layer, module] = tuple(
                torch.randn(size, generator=random) * 0.3 for size in ((rank, m), (n, rank))
            )
    return found
