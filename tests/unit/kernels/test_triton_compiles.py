"""The Triton kernels compile for GPUs, without one: nothing in them works in the interpreter only.

Compilation runs in a process of its own, since the tests of the interpreter change `triton.jit`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton")
SHARED_LIMIT = 99 * 1024  # bytes a program may have on the smallest of the GPUs (sm_86)
KERNELS = [
    "chunk", "split", "join", "linear4", "linear8", "shrink", "expand", "rotary", "norm", "gate",
    "logprobs",
]  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment |= {"TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles(compiled, name):
    assert set(compiled) == set(KERNELS)
    assert compiled[name]["cubin"] > 0
    assert compiled[name]["shared"] <= SHARED_LIMIT


def compile_all(capability: int) -> dict[str, dict[str, int]]:
    """Bytes of machine code and of shared memory of each kernel, at the sizes of a 7B model."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from evolute.kernels.triton import attention, linear, lora, rotary, rowwise

    def build(kernel, types, stages, warps=4, **constants):
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v
                                               for k, v in constants.items()})  # fmt: skip
        options = {"num_warps": warps, "num_stages": stages}
        made = triton.compile(source, GPUTarget("cuda", capability, 32), options)
        return {"cubin": len(made.asm["cubin"]), "shared": made.metadata.shared}

    half, wide, index = "*bf16", "*fp32", "*i32"
    tile = attention.Tile(64, 16, 4, 8, 128, 128, 16, 4096, 64, 512)
    single = tile._replace(rows=16, tokens=4)
    qkv = {"q": half, "keys": half, "values": half}
    table = {"positions": index, "page_table": index, "table_width": "i32", "scale": "fp32"}
    parts = (wide, wide, wide)
    codes = {"x": half, "codes": "*u8", "scale": "*fp16", "offset": "*fp16", "out": half}
    codes |= {"num_rows": "i32", "num_outputs": "i32"}
    ranks = lora.Tile(16, 16, 64, 64, 4096, 4096)
    shared = {"whose": (index, index, index), "max_rank": "i32"}
    rotate = {"qkv": (half, half, half), "out": half, "rotary": wide, "pages": (half, half)}
    rotate |= {"rows": (index, index, index), "table_width": "i32", "weights": (half, half)}
    heads = rotary.Heads(32, 32, 8, 8, 64, 64, 16)
    return {
        "chunk": build(attention.chunk_kernel,
                       qkv | table | {"out": half, "row_start": index}, 2, s=tile),
        "split": build(attention.split_kernel, qkv | table | {"parts": parts}, 2, s=single),
        "join": build(attention.join_kernel,
                      {"parts": parts, "out": half, "positions": index, "splits": "i32"},
                      1, 1, s=single),
        "linear4": build(linear.block_linear_kernel, codes, 3, bias=None,
                         s=linear.Tile(32, 64, 64, 16, 4096, 4)),
        "linear8": build(linear.block_linear_kernel, codes | {"bias": half}, 3,
                         s=linear.Tile(32, 64, 64, 32, 4096, 8)),
        "shrink": build(lora.shrink_kernel, shared | {"x": half, "a": half, "low": wide}, 3,
                        s=ranks),
        "expand": build(lora.expand_kernel, shared | {"low": wide, "b": half, "y": half}, 3,
                        s=ranks),
        "rotary": build(rotary.rotate_and_store_kernel, rotate | {"eps": "fp32"}, 1, s=heads),
        "norm": build(rowwise.rms_norm_kernel,
                      {"x": half, "weight": half, "extra": half, "out": half, "eps": "fp32"},
                      1, width=4096, block=4096),
        "gate": build(rowwise.silu_mul_kernel,
                      {"gate": half, "up": half, "out": half, "size": "i32"}, 1, block=1024),
        "logprobs": build(rowwise.token_logprobs_kernel,
                          {"logits": wide, "token_ids": "*i64", "temperature": wide, "out": wide},
                          1, 8, vocabulary=128256, block=4096),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(compile_all(int(sys.argv[1]) if len(sys.argv) > 1 else 86)))
