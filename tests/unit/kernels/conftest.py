"""Every test of a native kernel runs on each instruction set that the machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(params=["avx512", "avx2", "generic"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
    before = kernels.isa()
    try:
        kernels.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield request.param
    finally:
        kernels.set_isa(before)
