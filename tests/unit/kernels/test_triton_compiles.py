"""The Triton kernels compile for GPUs, without one, as their callers would launch them.

The callers are called with tensors on the CPU; arguments are bound, the kernel is compiled, only
the launch is left out. So tile sizes, warps and stages are those of the code, and nothing in it
works in the interpreter only. In a process of its own, where triton does not interpret.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from evolute.kernels.reference import (
    AdapterPool,
    BlockWeight,
    HeadNorm,
    PagedRows,
    Pages,
)

pytestmark = pytest.mark.timeout(400)  # the first test compiles for all; on a busy machine slowly
SHARED_LIMIT = 99 * 1024  # bytes a program may have on the smallest of the GPUs (sm_86)
KERNELS = {  # call -> kernels that it launches
    "chunk": ["chunk_kernel"],
    "chunk, window": ["chunk_kernel"],
    "chunk, float32": ["chunk_kernel"],
    "chunk, wide heads": ["chunk_kernel"],
    "decode": ["split_kernel", "join_kernel"],
    "decode, wide heads": ["split_kernel", "join_kernel"],
    "decode, wide heads, float32": ["split_kernel", "join_kernel"],
    "rotary": ["rotate_and_store_kernel"],
    "rotary, norm": ["rotate_and_store_kernel"],
    "linear, 4 bits": ["block_linear_kernel"],
    "linear, 8 bits, bias": ["block_linear_kernel"],
    "linear, float32": ["block_linear_kernel"],
    "adapters": ["shrink_kernel", "expand_kernel", "expand_kernel"],
    "adapters, blocks that cut vectors": ["shrink_kernel", "expand_kernel", "expand_kernel"],
    "norm": ["rms_norm_kernel"],
    "norm, residual": ["rms_norm_kernel"],
    "gate": ["silu_mul_kernel"],
    "logprobs": ["token_logprobs_kernel"],
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, int, int]]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment |= {"TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("call", KERNELS)
def test_what_a_call_launches_compiles_and_fits(compiled, call):
    assert [name for name, _, _ in compiled[call]] == KERNELS[call]
    for name, machine_code, shared in compiled[call]:
        assert machine_code > 0
        assert shared <= SHARED_LIMIT, f"{name} wants {shared} bytes of shared memory"


def compile_calls(capability: int) -> dict[str, list[tuple[str, int, int]]]:
    """Kernel, bytes of machine code and of shared memory of each launch of each call."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Driver:  # what the launch asks before it compiles
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)
        get_current_target = staticmethod(lambda: GPUTarget("cuda", capability, 32))

    launches: list[tuple[str, int, int]] = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        launches.append((self.fn.__name__, len(kernel.asm["cubin"]), kernel.metadata.shared))

    driver.set_active(Driver())
    JITFunction.run = compile_only
    found = {}
    for name, call in calls():
        launches.clear()
        call()
        found[name] = list(launches)
    return found


def calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls at the sizes of a 7B model, in bfloat16 unless named otherwise."""
    from evolute.kernels.triton import attention, linear, lora, rotary, rowwise

    half, full = torch.bfloat16, torch.float32
    rows, single = sequences(4), sequences(1)
    chunk, decode = attention.chunk_attention, attention.decode_attention
    yield "chunk", lambda: chunk(*heads(8, 128, half), rows)
    yield "chunk, window", lambda: chunk(*heads(8, 128, half), rows, 4096)
    yield "chunk, float32", lambda: chunk(*heads(8, 128, full), rows)
    yield "chunk, wide heads", lambda: chunk(*heads(8, 256, half), rows)
    yield "decode", lambda: decode(*heads(2, 128, half), single)
    yield "decode, wide heads", lambda: decode(*heads(2, 256, half), single)
    yield "decode, wide heads, float32", lambda: decode(*heads(2, 256, full), single)

    q, pages = heads(8, 128, half)
    k, table, ones = q[:, :8].contiguous(), torch.ones(1024, 128), torch.ones(128, dtype=half)
    turn = lambda norm: rotary.rotate_and_store(q, k, k, table, rows, pages, norm)  # noqa: E731
    yield "rotary", lambda: turn(None)
    yield "rotary, norm", lambda: turn(HeadNorm(ones, ones, 1e-5))

    x, y, bias = torch.ones(8, 4096, dtype=half), torch.ones(8, 128, dtype=half), ones
    yield "linear, 4 bits", lambda: linear.block_linear(x, codes(4))
    yield "linear, 8 bits, bias", lambda: linear.block_linear(x, codes(8), bias)
    yield "linear, float32", lambda: linear.block_linear(x.float(), codes(4))
    adapter = torch.zeros(2, dtype=torch.int32)
    add = lambda block: lora.add_lora([y, y], x, pool(block), 0, rows, adapter)  # noqa: E731
    yield "adapters", lambda: add(16384)
    yield "adapters, blocks that cut vectors", lambda: add(24)
    weight = torch.ones(4096, dtype=half)
    yield "norm", lambda: rowwise.rms_norm(x, weight, 1e-5)
    yield "norm, residual", lambda: rowwise.rms_norm(x, weight, 1e-5, x)
    yield "gate", lambda: rowwise.silu_mul(x, x)
    logits, ids = torch.ones(2, 128256), torch.ones(2, dtype=torch.int64)
    yield "logprobs", lambda: rowwise.token_logprobs(logits, ids, torch.ones(2))


def sequences(count: int) -> PagedRows:
    """Two sequences that compute `count` tokens each behind a prefix of 700."""
    positions = torch.arange(700, 700 + count).repeat(2)
    return PagedRows.of(torch.arange(3) * count, positions, torch.zeros(2, 60))


def heads(num_rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, Pages]:
    pages = Pages(*(torch.ones(2, 16, 8, width, dtype=dtype) for _ in "kv"))
    return torch.ones(num_rows, 32, width, dtype=dtype), pages


def codes(bits: int) -> BlockWeight:
    scale = torch.ones(128, 128, dtype=torch.float16)
    return BlockWeight.pack(torch.ones(128, 4096, dtype=torch.uint8), scale, scale, bits)


def pool(block: int) -> AdapterPool:
    tables = (torch.zeros((1, 4), dtype=torch.int64), torch.zeros((1, 7, 3), dtype=torch.int64))
    return AdapterPool(torch.ones(1 << 16), block, *tables, torch.ones(1), 16)


if __name__ == "__main__":
    print(json.dumps(compile_calls(int(sys.argv[1]) if len(sys.argv) > 1 else 86)))
