"""A weight matrix in the order the CPU kernels read it.

    PackedLinear.from_float32(w)                       panels of float32
    PackedLinear.from_blocks(codes, scale, offset, bits=4)   blocks of 32 codes, exact
    PackedLinear.quantize(w, bits=8)                   float32 rounded to blocks of 32
    PackedLinear.quantize_channels(w)                  8 bits and one scale for each output
    packed(x)                                          x [T, K] -> [T, N]
    packed.rows(ids), packed.dense()                   back to float32

Codes are multiplied with activations rounded to 8 bits per token and block of 32 (scale =
amax / 127); the weights themselves are not rounded. A row's result does not depend on the rows
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

import evolute.kernels._native as _native

Float32 = NDArray[np.float32]
BLOCK = 32


class PackedLinear:
    """y = x W^T for a matrix [N, K]."""

    def __init__(self, native: _native.Packed) -> None:
        self.native = native

    @classmethod
    def from_float32(cls, weight: ArrayLike) -> PackedLinear:
        return cls(_native.Packed.from_float32(_float32(weight)))

    @classmethod
    def from_blocks(
        cls, codes: NDArray[np.uint8], scale: Float32, offset: Float32, bits: int
    ) -> PackedLinear:
        """scale * code + offset per block of 32. Raises ValueError unless K is a multiple of 32."""
        codes = np.ascontiguousarray(codes, np.uint8)
        return cls(_native.Packed.from_blocks(codes, _float32(scale), _float32(offset), bits))

    @classmethod
    def quantize(cls, weight: ArrayLike, bits: int = 8) -> PackedLinear:
        """Round to the nearest of 2**bits values between each block's least and greatest."""
        values = _float32(weight)
        if values.shape[1] % BLOCK:
            raise ValueError(
                f"a matrix of width {values.shape[1]} cannot be cut in blocks of 32; "
                "use from_float32."
            )
        blocks = values.reshape(len(values), -1, BLOCK)
        offset = blocks.min(-1)
        scale = (blocks.max(-1) - offset) / (2**bits - 1)
        steps = np.where(scale > 0, scale, 1)[..., None]
        codes = np.rint((blocks - offset[..., None]) / steps).astype(np.uint8)
        return cls.from_blocks(codes.reshape(values.shape), scale, offset, bits)

    @classmethod
    def quantize_channels(
        cls, weight: ArrayLike | Iterator[ArrayLike], group: int = 1
    ) -> PackedLinear:
        """Round to 255 values around 0 for each output; `weight` [N, K], or runs of its rows.

        Fewer operations than blocks: one scale an output, and activations that are rounded by
        `group` blocks of 32 together. Raises ValueError unless that divides the width.
        """
        runs = weight if isinstance(weight, Iterator) else [weight]
        codes, scales = zip(*(_channel_codes(_float32(run)) for run in runs))
        scale = np.concatenate(scales)
        return cls(_native.Packed.from_channels(np.concatenate(codes), scale, -128 * scale, group))

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.native.n), int(self.native.k)

    @property
    def nbytes(self) -> int:
        return int(self.native.nbytes)

    def __call__(self, x: ArrayLike, *, num_threads: int = 1) -> Float32:
        rows = _float32(x)
        out = np.empty((len(rows), self.shape[0]), np.float32)
        self.native.run(rows, out, num_threads)
        return out

    def rows(self, ids: ArrayLike) -> Float32:
        """Rows of the matrix, as an embedding reads them."""
        index = np.ascontiguousarray(ids, np.int64)
        out = np.empty((len(index), self.shape[1]), np.float32)
        self.native.rows(index, out)
        return out

    def dense(self) -> Float32:
        return self.rows(np.arange(self.shape[0]))


def _channel_codes(values: Float32) -> tuple[NDArray[np.uint8], Float32]:
    """Codes [N, K] around 128, and the size of a step [N]."""
    scale = np.abs(values).max(-1, initial=0.0) / 127
    steps = np.where(scale > 0, scale, 1)[:, None]
    codes = np.rint(values / steps) + 128
    return codes.astype(np.uint8), scale.astype(np.float32)


def _float32(values: ArrayLike) -> Float32:
    return np.ascontiguousarray(values, np.float32)
