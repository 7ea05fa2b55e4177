"""Which instruction set the kernels use: the best the machine has, unless told."""

from __future__ import annotations

import evolute.kernels._native as _native


def isa() -> str:
    return str(_native.isa())


def set_isa(name: str) -> None:
    """avx512, avx2 or generic. Raises ValueError with what the machine has."""
    _native.set_isa(name)
