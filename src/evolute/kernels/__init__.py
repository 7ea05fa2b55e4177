"""Numeric kernels for the CPU, in C++ (`native/`), compiled once per instruction set."""

from evolute.kernels._native import give_back_memory
from evolute.kernels.decoder import DecoderShape, KvPool, NativeDecoder, PagedFloats
from evolute.kernels.isa import isa, set_isa
from evolute.kernels.linear import PackedLinear

__all__ = [
    "DecoderShape",
    "KvPool",
    "NativeDecoder",
    "PackedLinear",
    "PagedFloats",
    "give_back_memory",
    "isa",
    "set_isa",
]
