"""Linear layers of the CPU: what the reference says, row by row, on every instruction set."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evolute.kernels.reference import BlockWeight, round_activations

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
PackedLinear = kernels.PackedLinear
Float32 = NDArray[np.float32]
MAX_ROWS = 40  # above every tile of rows that a kernel may take at once


def numbers(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blocks(
    outputs: int, inputs: int, bits: int, half: bool
) -> tuple[NDArray[np.uint8], Float32, Float32]:
    """Codes, scales, offsets; `half` if float16 holds scales and offsets, as in GGUF files."""
    codes = np.random.default_rng(1).integers(0, 2**bits, (outputs, inputs)).astype(np.uint8)
    scale, offset = (numbers(outputs, inputs // 32, seed=seed) / 2**bits for seed in (2, 3))
    if half:
        scale, offset = (x.astype(np.float16).astype(np.float32) for x in (scale, offset))
    return codes, scale, offset


def expected_of_codes(x: Float32, parts: tuple, bits: int) -> NDArray[np.float64]:
    weight = BlockWeight.pack(*(torch.from_numpy(part) for part in parts), bits)
    rounded = round_activations(torch.from_numpy(x)).double()
    return (rounded @ weight.dense().double().T).numpy()


def packed_as(storage: str, weight: Float32) -> PackedLinear:
    if storage == "float32":
        return PackedLinear.from_float32(weight)
    if storage == "channels":
        return PackedLinear.quantize_channels(weight)
    return PackedLinear.quantize(weight, int(storage[0]))


STORAGES = ["float32", "4 bits", "8 bits", "channels"]


def assert_near(got: Float32, expected: NDArray[np.float64], terms: int) -> None:
    """Within the rounding of a float32 sum of that many terms."""
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 3e-7 * terms**0.5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("outputs", "inputs"), [(1, 1), (15, 7), (16, 32), (33, 31), (70, 100), (96, 257)]
)
def test_floats(isa, outputs, inputs):
    weight, x = numbers(outputs, inputs), numbers(MAX_ROWS, inputs, seed=9)
    packed = PackedLinear.from_float32(weight)
    assert packed.shape == (outputs, inputs)
    assert np.array_equal(packed.dense(), weight)
    assert_near(packed(x), x.astype(np.float64) @ weight.astype(np.float64).T, inputs)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (16, 64), (37, 96), (70, 576)])
def test_codes(isa, bits, half, outputs, inputs):
    parts, x = blocks(outputs, inputs, bits, half), numbers(MAX_ROWS, inputs, seed=9)
    packed = PackedLinear.from_blocks(*parts, bits)
    assert packed.shape == (outputs, inputs)
    assert_near(packed(x), expected_of_codes(x, parts, bits), inputs)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_codes_do_not_saturate(isa, bits):
    """Sums of unsigned times signed bytes: 16 bits would not hold two of these products."""
    codes = np.full((20, 96), 2**bits - 1, np.uint8)
    one, none = np.ones((20, 3), np.float32), np.zeros((20, 3), np.float32)
    x = np.stack([np.full(96, 127.0), np.full(96, -127.0)]).astype(np.float32)
    got = PackedLinear.from_blocks(codes, one, none, bits)(x)
    assert np.array_equal(got, np.outer([1, -1], np.full(20, 96 * 127 * (2**bits - 1))))


def test_rounded_activations_are_the_only_loss(isa):
    """Inputs that are 8-bit codes already: then the answer is the exact one."""
    x = np.random.default_rng(0).integers(-127, 128, (5, 64)).astype(np.float32)
    x[:, ::32] = 127  # each block's largest, so that its scale is 1
    parts = blocks(30, 64, 4, False)
    weight = BlockWeight.pack(*(torch.from_numpy(part) for part in parts), 4).dense().double()
    got = PackedLinear.from_blocks(*parts, 4)(x)
    assert_near(got, x.astype(np.float64) @ weight.numpy().T, 64)


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 192), (16, 192), (37, 576)])
def test_channels(isa, group, outputs, inputs):
    weight, x = numbers(outputs, inputs), numbers(MAX_ROWS, inputs, seed=9)
    packed = PackedLinear.quantize_channels(weight, group)
    rounded = round_activations(torch.from_numpy(x), group).double().numpy()
    assert_near(packed(x), rounded @ packed.dense().astype(np.float64).T, inputs)
    step = np.abs(weight).max(-1, keepdims=True) / 127
    assert (np.abs(packed.dense() - weight) <= 0.501 * step).all()


def test_the_largest_channel_codes_do_not_saturate(isa):
    weight = np.stack([np.full(576, 1.0), np.full(576, -1.0), np.zeros(576)]).astype(np.float32)
    x = np.stack([np.full(576, 127.0), np.full(576, -127.0)]).astype(np.float32)
    got = PackedLinear.quantize_channels(weight, 3)(x)
    np.testing.assert_allclose(got, np.outer([1, -1], [576 * 127, -576 * 127, 0]), rtol=1e-6)


def test_channels_need_a_width_that_their_groups_divide():
    with pytest.raises(ValueError, match="groups of 3 blocks"):
        PackedLinear.quantize_channels(numbers(4, 64), 3)


def test_zero_blocks(isa):
    parts, x = blocks(20, 64, 8, False), numbers(3, 64)
    x[1], x[2, 32:] = 0, 0
    got = PackedLinear.from_blocks(*parts, 8)(x)
    assert_near(got, expected_of_codes(x, parts, 8), 64)
    assert not got[1].any()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_does_not_depend_on_the_rows_beside_it(isa, storage):
    """To the last bit, for every number of rows; beside rows that are not numbers, too."""
    weight, x = numbers(50, 96), numbers(MAX_ROWS, 96, seed=9)
    packed = packed_as(storage, weight)
    alone = np.concatenate([packed(x[i : i + 1]) for i in range(MAX_ROWS)])
    for count in range(1, MAX_ROWS + 1):
        assert np.array_equal(packed(x[:count]), alone[:count])
    x[1::2] = np.nan
    assert np.array_equal(packed(x)[::2], alone[::2])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_does_not_depend_on_threads(isa, storage):
    weight, x = numbers(200, 64), numbers(7, 64, seed=9)
    packed = packed_as(storage, weight)
    one = packed(x)
    for threads in (2, 3, 20):
        assert np.array_equal(packed(x, num_threads=threads), one)


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_rows_are_what_an_embedding_reads(bits):
    if bits == 32:
        dense = numbers(40, 64)
        packed = PackedLinear.from_float32(dense)
    else:
        parts = blocks(40, 64, bits, False)
        dense = BlockWeight.pack(*(torch.from_numpy(p) for p in parts), bits).dense().numpy()
        packed = PackedLinear.from_blocks(*parts, bits)
    ids = [39, 0, 17, 17, 16, 31, 32]
    np.testing.assert_allclose(packed.rows(ids), dense[ids], rtol=1e-6, atol=1e-7)
    assert packed.rows(np.array([], np.int64)).shape == (0, 64)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_rounds_by_half_a_step_at_most(bits):
    weight = numbers(10, 96)
    weight[3, 32:64] = 0.25  # a constant block has no steps
    back = PackedLinear.quantize(weight, bits).dense()
    spread = np.ptp(weight.reshape(10, -1, 32), axis=-1) / (2**bits - 1)
    error = np.abs(back - weight).reshape(10, -1, 32).max(-1)
    assert (error <= 0.501 * spread + 1e-6).all()
    assert np.array_equal(back[3, 32:64], weight[3, 32:64])


@pytest.mark.parametrize("index", [-1, 40])
def test_a_row_outside_the_matrix_is_refused(index):
    packed = PackedLinear.from_float32(numbers(40, 8))
    with pytest.raises(ValueError, match="outside"):
        packed.rows([0, index])


def test_inputs_of_another_width_are_refused():
    packed = PackedLinear.from_float32(numbers(40, 8))
    with pytest.raises(ValueError, match=r"\[T, K\]"):
        packed(numbers(2, 9))
    with pytest.raises(ValueError, match="num_threads"):
        packed(numbers(2, 8), num_threads=0)


def test_codes_that_do_not_fit_are_refused():
    codes, scale, offset = blocks(4, 64, 8, False)
    codes[2, 5] = 16
    with pytest.raises(ValueError, match="4 bits"):
        PackedLinear.from_blocks(codes, scale, offset, 4)
    with pytest.raises(ValueError, match="4 or 8 bits"):
        PackedLinear.from_blocks(codes, scale, offset, 5)
    with pytest.raises(ValueError, match="K / 32"):
        PackedLinear.from_blocks(codes, scale[:, :1].copy(), offset, 8)
    with pytest.raises(ValueError, match="multiple of 32"):
        PackedLinear.from_blocks(codes[:, :40], scale[:, :1].copy(), offset[:, :1].copy(), 8)
    with pytest.raises(ValueError, match="from_float32"):
        PackedLinear.quantize(numbers(4, 40))


def test_an_unknown_instruction_set_is_refused_by_what_there_is():
    before = kernels.isa()
    with pytest.raises(ValueError, match="generic"):
        kernels.set_isa("abacus")
    assert kernels.isa() == before


REPLACED = """
import os
import numpy as np
from evolute.kernels import PackedLinear

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)  # packed: 64 kB
packed = PackedLinear.from_float32(weight)
before, most = resident(), 0.0
for _ in range(600):  # 38 MB in all
    packed = PackedLinear.from_float32(weight)
    most = max(most, resident() - before)
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux what is resident")
def test_matrices_that_replace_one_another_take_no_more_than_a_few():
    """Small ones share a slab, which stays while one of them does. In a process of its own: how
    large a slab may be goes by what slabs hold already."""
    command = [sys.executable, "-c", REPLACED]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(ran.stdout) < 10
