"""The compiled module; `linear`, `decoder` and `isa` are its documented face."""

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

def set_isa(name: str, /) -> None: ...
def isa() -> str: ...
def give_back_memory() -> None: ...

class Packed:
    @staticmethod
    def from_float32(weight: Float32, /) -> Packed: ...
    @staticmethod
    def from_blocks(
        codes: NDArray[np.uint8], scale: Float32, offset: Float32, bits: int, /
    ) -> Packed: ...
    @staticmethod
    def from_channels(
        codes: NDArray[np.uint8], scale: Float32, offset: Float32, group: int, /
    ) -> Packed: ...
    def run(self, x: Float32, out: Float32, num_threads: int, /) -> None: ...
    def rows(self, ids: NDArray[np.int64], out: Float32, /) -> None: ...
    n: int
    k: int
    nbytes: int

class Pages:
    def __init__(self, *sizes: int) -> None: ...
    def copy_page(self, source: int, target: int, /) -> None: ...
    def write_floats(self, pages: Int32, flat: Float32, /) -> None: ...
    def blocks(self, pages: Int32, addresses: NDArray[np.uint64], /) -> None: ...
    nbytes: int
    block_floats: int

class Decoder:
    def __init__(self, *sizes_and_rotary: float | Float32) -> None: ...
    def set_linear(
        self, layer: int, module: int, packed: Packed, bias: Float32 | None, /
    ) -> None: ...
    def set_norm(self, layer: int, which: int, weight: Float32, /) -> None: ...
    def set_final_norm(self, weight: Float32, /) -> None: ...
    def set_vocabulary(self, embedding: Packed, head: Packed, /) -> None: ...
    def set_adapter(
        self,
        index: int,
        scale: float,
        parts: NDArray[np.int64],
        blocks: NDArray[np.uint64],
        block_floats: int,
        /,
    ) -> None: ...
    def drop_adapter(self, index: int, /) -> None: ...
    num_threads: int
    share_prefixes: bool
    key_blocks: int
    def forward(self, pages: Pages, *arrays: Int32 | Float32) -> None: ...
    def draw(
        self,
        logits: Float32,
        rows: Int32,
        settings: Float32,
        top_k: Int32,
        points: Float64,
        tokens: Int32,
        /,
    ) -> None: ...
    def score(
        self,
        logits: Float32,
        rows: Int32,
        temperature: Float32,
        tokens: Int32,
        logprobs: Float64,
        /,
    ) -> None: ...
