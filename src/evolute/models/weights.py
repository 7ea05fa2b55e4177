"""Weights by name: dense tensors, or the file's own blocks of small integers.

Serving from a GGUF file on the native executor never imports torch, which would take longer than
all the rest of a start; so tensors of such a file are arrays, and `dense` makes torch's of them.

Names are Hugging Face's without the leading "model.": "layers.0.self_attn.q_proj.weight",
"embed_tokens.weight", "norm.weight", "lm_head.weight" (absent when tied).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from evolute.types import ModelError

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

BLOCK = 32
Array = NDArray[np.float32] | NDArray[np.float16]


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

    def array(self) -> Float[NDArray[np.float32], "N K"]:
        rows, columns = self.shape
        values = self.codes.reshape(rows, -1, BLOCK).astype(np.float32)
        values *= self.scale[..., None]
        values += self.offset[..., None]
        return values.reshape(rows, columns)

    def rows(self, order: NDArray[np.int64]) -> BlockQuantized:
        """The same weights with rows reordered."""
        return BlockQuantized(
            np.ascontiguousarray(self.codes[order]),
            np.ascontiguousarray(self.scale[order]),
            np.ascontiguousarray(self.offset[order]),
            self.bits,
        )


Weight: TypeAlias = Tensor | Array | BlockQuantized


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
        """The weight as a float32 tensor."""
        import torch

        weight = self._tensors[name]
        return (
            weight.float() if isinstance(weight, torch.Tensor) else torch.from_numpy(_array(weight))
        )

    def array(self, name: str) -> NDArray[np.float32]:
        """The weight as a float32 array, which may share memory with it."""
        return _array(self._tensors[name])

    def runs(self, name: str, rows: int) -> Iterator[NDArray[np.float32]]:
        """A matrix as float32, `rows` rows after the other: large ones need not be whole."""
        weight = self._tensors[name]
        for first in range(0, weight.shape[0], rows):
            if isinstance(weight, BlockQuantized):
                order = np.arange(first, min(first + rows, weight.shape[0]))
                yield weight.rows(order).array()
            else:
                yield _array(weight[first : first + rows])

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
        return fingerprint((name, self.array(name)) for name in sorted(self._tensors))


def fingerprint(tensors: Iterable[tuple[str, Tensor | Array]]) -> str:
    """sha256 over names, shapes and float32 bytes, in the order given."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = _array(tensor)
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


# -- internals ---------------------------------------------------------------


def _array(weight: Weight) -> NDArray[np.float32]:
    if isinstance(weight, BlockQuantized):
        return weight.array()
    if isinstance(weight, np.ndarray):
        return weight.astype(np.float32, copy=False)
    values: Any = weight.detach().float().cpu().numpy()
    return np.asarray(values, np.float32)
