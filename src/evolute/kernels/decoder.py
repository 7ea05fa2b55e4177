"""The decoder stack of the Llama family in one native call per step, on threads of its own.

    NativeDecoder(shape, rotary, num_threads)     then set_linear, set_norm, set_vocabulary ...
    decoder.forward(pool, ...)                    logits [R, V]; writes keys and values
    KvPool(...)                                   pages of keys and values, or of adapters
    decoder.set_adapter(index, parts, memory, scale)   memory: a PagedFloats or a flat array

Attention walks keys in blocks of 64 absolute positions and linear layers sum in one order, so a
token's result does not depend on its batch, on how its prompt was cut, or on threads.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

import evolute.kernels._native as _native
from evolute.kernels.linear import PackedLinear

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
UInt64 = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("attention", "mlp", "q", "k")


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a network; sliding_window in tokens, None for all."""

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ff_width: int
    vocab_size: int
    norm_eps: float
    qk_norm: bool = False
    sliding_window: int | None = None


@dataclass(frozen=True, slots=True)
class PagedFloats:
    """A run of floats that lies in pages of a pool, which it keeps alive."""

    pool: KvPool
    pages: Int32

    def blocks(self) -> tuple[UInt64, int]:
        """Addresses of the blocks, and how many floats each holds."""
        addresses = np.empty(2 * len(self.pages), np.uint64)
        self.pool.native.blocks(self.pages, addresses)
        return addresses, self.pool.native.block_floats


class KvPool:
    """Keys and values of all layers, by page. A page may hold floats of an adapter instead."""

    def __init__(
        self,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_width: int,
        dtype: Literal["float32", "float16"],
    ) -> None:
        sizes = (num_layers, num_pages, page_size, num_kv_heads, head_width)
        self.native = _native.Pages(*sizes, dtype == "float16")
        self._num_pages = num_pages

    @property
    def nbytes(self) -> int:
        return int(self.native.nbytes)

    def copy_page(self, source: int, target: int) -> None:
        self.native.copy_page(source, target)

    def memory(self) -> tuple[Bytes, Bytes]:
        """The pool's own keys and values, each [pages, bytes of a page]; good while it lives."""
        found = np.empty(2, np.uint64)
        self.native.blocks(np.zeros(1, np.int32), found)
        size = self.native.block_floats * 4
        sides = [(ctypes.c_uint8 * (self._num_pages * size)).from_address(int(a)) for a in found]
        keys, values = (np.ctypeslib.as_array(side).reshape(-1, size) for side in sides)
        return keys, values

    def write_floats(self, pages: Int32, flat: Float32) -> PagedFloats:
        """Fill pages that nobody reads; from any thread, beside a step."""
        held = PagedFloats(self, np.ascontiguousarray(pages, np.int32))
        self.native.write_floats(held.pages, flat)
        return held


class NativeDecoder:
    """Weights, adapters and threads of one model."""

    def __init__(self, shape: DecoderShape, rotary: ArrayLike, num_threads: int) -> None:
        s = shape
        self.shape = shape
        self._memory: dict[int, PagedFloats | Float32] = {}
        self._native = _native.Decoder(
            *(s.num_layers, s.width, s.num_heads, s.num_kv_heads, s.head_width, s.ff_width),
            *(s.vocab_size, s.norm_eps, s.qk_norm, s.sliding_window or 0),
            *(_float32(rotary), num_threads),
        )

    def set_linear(
        self, layer: int, module: str, packed: PackedLinear, bias: ArrayLike | None = None
    ) -> None:
        """`module` is one of q, k, v, o, gate, up, down."""
        values = None if bias is None else _float32(bias)
        self._native.set_linear(layer, MODULES.index(module), packed.native, values)

    def set_norm(self, layer: int, which: str, weight: ArrayLike) -> None:
        """`which` is attention or mlp [D], q or k [head width]."""
        self._native.set_norm(layer, NORMS.index(which), _float32(weight))

    def set_final_norm(self, weight: ArrayLike) -> None:
        self._native.set_final_norm(_float32(weight))

    def set_vocabulary(self, embedding: PackedLinear, head: PackedLinear) -> None:
        """Both [V, D]; the same object when tied."""
        self._native.set_vocabulary(embedding.native, head.native)

    def set_adapter(
        self, index: int, parts: NDArray[np.int64], memory: PagedFloats | Float32, scale: float
    ) -> None:
        """Compute with an adapter where it lies. `parts` [P, 7]: layer, module, rank, inputs,
        outputs, first float of A's rows, of B^T's. Raises ValueError if they do not fit."""
        if isinstance(memory, PagedFloats):
            blocks, floats = memory.blocks()
        else:
            blocks, floats = np.array([memory.ctypes.data], np.uint64), max(len(memory), 1)
        self._native.set_adapter(index, scale, parts, blocks, floats)
        self._memory[index] = memory  # the kernels keep addresses only

    def drop_adapter(self, index: int) -> None:
        self._native.drop_adapter(index)
        self._memory.pop(index, None)

    @property
    def num_threads(self) -> int:
        return int(self._native.num_threads)

    @num_threads.setter
    def num_threads(self, value: int) -> None:
        self._native.num_threads = value

    @property
    def share_prefixes(self) -> bool:
        """Whether first pages that sequences have in common are read once; answers are equal."""
        return bool(self._native.share_prefixes)

    @share_prefixes.setter
    def share_prefixes(self, value: bool) -> None:
        self._native.share_prefixes = value

    @property
    def key_blocks(self) -> int:
        """Blocks of 64 keys of a head that a layer of the last step read, windows aside."""
        return int(self._native.key_blocks)

    def forward(
        self,
        pool: KvPool,
        *,
        token_ids: Int32,
        positions: Int32,
        row_start: Int32,
        context_len: Int32,
        page_table: Int32,
        adapter: Int32,
        logit_rows: Int32,
        out: Float32 | None = None,
    ) -> Float32:
        """Logits [R, V], in `out` if given. Positions of a sequence must rise. Raises ValueError
        on bad input, before anything is written."""
        wanted = (len(logit_rows), self.shape.vocab_size)
        logits = np.empty(wanted, np.float32) if out is None else out
        rows = (token_ids, positions, row_start, context_len, page_table, adapter, logit_rows)
        arrays = (np.ascontiguousarray(array, np.int32) for array in rows)
        self._native.forward(pool.native, *arrays, logits)
        return logits

    def draw(
        self,
        logits: Float32,
        rows: Int32,
        settings: Float32,
        top_k: Int32,
        points: NDArray[np.float64],
    ) -> Int32:
        """Tokens [S] drawn from logits[rows]; -1 where they are not finite.

        settings [S, 3] holds temperature (0: the largest), top-p and min-p; top_k [S], 0 for all;
        points [S] in [0, 1) say where the inverse distribution function is read, over what is
        kept, in vocabulary order.
        """
        tokens = np.empty(len(rows), np.int32)
        self._native.draw(logits, rows, settings, top_k, points, tokens)
        return tokens

    def score(
        self, logits: Float32, rows: Int32, temperature: Float32, tokens: Int32
    ) -> NDArray[np.float64]:
        """Log-probability [S] of a token under logits[rows]; NaN for the token -1."""
        logprobs = np.empty(len(rows), np.float64)
        self._native.score(logits, rows, temperature, tokens, logprobs)
        return logprobs


def _float32(values: ArrayLike) -> Float32:
    return np.ascontiguousarray(values, np.float32)
