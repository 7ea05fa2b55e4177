"""Weights by name: dense tensors, or the file's own blocks of small integers.

Names are Hugging Face's without the leading "model.": "layers.0.self_attn.q_proj.weight",
"embed_tokens.weight", "norm.weight", "lm_head.weight" (absent when tied).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from evolute.types import ModelError

BLOCK = 32


@dataclass(frozen=True, slots=True)
class BlockQuantized:
    """weight[n, k] = scale[n, k // 32] * code[n, k] + offset[n, k // 32].

    The affine block form that Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q4_K share, without rounding.
    codes uint8 [N, K] below 2**bits; scale and offset float32 [N, K / 32].
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    bits: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def dense(self) -> Float[Tensor, "N K"]:
        rows, columns = self.shape
        values = self.codes.reshape(rows, -1, BLOCK).astype(np.float32)
        values *= self.scale[..., None]
        values += self.offset[..., None]
        return torch.from_numpy(values.reshape(rows, columns))

    def rows(self, order: NDArray[np.int64]) -> BlockQuantized:
        """The same weights with rows reordered."""
        return BlockQuantized(
            np.ascontiguousarray(self.codes[order]),
            np.ascontiguousarray(self.scale[order]),
            np.ascontiguousarray(self.offset[order]),
            self.bits,
        )


Weight = Tensor | BlockQuantized


class ModelWeights(Mapping[str, Weight]):
    """Read-only mapping from names to weights."""

    def __init__(self, tensors: Mapping[str, Weight]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> Weight:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def dense(self, name: str) -> Tensor:
        """The weight as float32."""
        weight = self._tensors[name]
        return weight.dense() if isinstance(weight, BlockQuantized) else weight.float()

    def runs(self, name: str, rows: int) -> Iterator[Tensor]:
        """A matrix as float32, `rows` rows after the other: large ones need not be whole."""
        weight = self._tensors[name]
        for first in range(0, weight.shape[0], rows):
            if isinstance(weight, BlockQuantized):
                yield weight.rows(np.arange(first, min(first + rows, weight.shape[0]))).dense()
            else:
                yield weight[first : first + rows].float()

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ModelError unless these are the tensors of `shapes`, no more and no less."""
        for names, fault in ((shapes.keys() - self.keys(), "lacks"), (self.keys() - shapes, "has")):
            if names:
                raise ModelError(
                    f"the model {fault} {len(names)} tensors against its config, e.g. "
                    f"{min(names)!r}. Fetch the model again, or correct the config."
                )
        for name, shape in shapes.items():
            if tuple(self[name].shape) != shape:
                raise ModelError(
                    f"{name} is {tuple(self[name].shape)}, expected {shape} by the model's config."
                )

    def fingerprint(self) -> str:
        """sha256 over names and float32 values; equal weights give equal digests."""
        return fingerprint((name, self.dense(name)) for name in sorted(self._tensors))


def fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, shapes and float32 bytes, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
