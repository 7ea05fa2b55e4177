"""The Triton kernels compute what the reference says: in Triton's interpreter, and on a GPU.

The interpreter is chosen in tests/conftest.py, before triton is imported. For a GPU:

    TRITON_INTERPRET=0 pytest -m gpu tests/equivalence/test_kernels_triton.py
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from evolute.kernels import reference  # noqa: E402
from evolute.kernels.reference import (  # noqa: E402
    AdapterPool,
    BlockWeight,
    HeadNorm,
    PagedRows,
    Pages,
)
from evolute.kernels.triton import attention, linear, lora, rotary, rowwise  # noqa: E402

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
TYPES = {torch.float32: 2e-5, torch.float16: 4e-3}


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if (request.param == "interpreter") != INTERPRETED:
        pytest.fail(f"TRITON_INTERPRET is {os.environ['TRITON_INTERPRET']}: see the file's head")
    return "cpu" if INTERPRETED else "cuda"


def _rows_are_alike() -> bool:
    """Whether numpy, which multiplies for the interpreter, sums a row alike wherever it stands."""
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    return all(np.array_equal((a @ b)[s:], (np.roll(a, -s, 0) @ b)[:-s]) for s in (1, 2, 7, 31))


ROWS_ARE_ALIKE = not INTERPRETED or _rows_are_alike()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """To the last bit, where the machine's products allow it."""
    if ROWS_ARE_ALIKE:
        assert torch.equal(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def paged(
    spans: list[tuple[int, int]], page_size: int, device: str, spare: int = 3
) -> tuple[PagedRows, int]:
    """Sequences that compute positions start : end, on shuffled pages; the number of pages."""
    counts = [-(-end // page_size) for _, end in spans]
    pages = np.random.default_rng(len(spans) + page_size).permutation(sum(counts) + spare)
    table = np.zeros((len(spans), max(counts) + 1), np.int64)
    for row, (first, count) in enumerate(zip(np.cumsum([0, *counts]), counts)):
        table[row, :count] = pages[first : first + count]
    start = torch.tensor([0, *np.cumsum([end - begin for begin, end in spans])])
    positions = torch.cat([torch.arange(*span) for span in spans])
    rows = PagedRows.of(start.to(device), positions.to(device), torch.tensor(table).to(device))
    return rows, len(pages)


def pages_of(num_pages: int, page_size: int, heads: int, width: int, like: Tensor) -> Pages:
    shape = (num_pages, page_size, heads, width)
    return Pages(*(torch.randn(shape).to(like) for _ in range(2)))


def assert_near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    torch.testing.assert_close(got.float(), expected.float(), atol=tolerance, rtol=tolerance)


RAGGED = [(0, 1), (0, 66), (64, 65), (70, 75), (128, 131)]  # chunks of prompts, with prefixes
HEADS = [(3, 1, 16), (4, 2, 24), (9, 3, 64), (20, 1, 32), (2, 2, 128), (2, 1, 160)]
CHUNKS = [  # heads, page size, window
    (0, 1, None), (0, 16, 1), (1, 5, None), (1, 16, 64), (2, 16, None), (2, 3, 40), (3, 7, 33),
    (4, 4, None), (5, 16, 40),
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "page_size", "window"), CHUNKS)
def test_attention_of_chunks(device, dtype, heads, page_size, window):
    heads, kv_heads, width = HEADS[heads]
    rows, num_pages = paged(RAGGED, page_size, device)
    q = torch.randn(int(rows.row_start[-1]), heads, width).to(device, dtype)
    pages = pages_of(num_pages, page_size, kv_heads, width, q)
    got = attention.chunk_attention(q, pages, rows, window)
    assert_near(got, reference.paged_attention(q, pages, rows, window), TYPES[dtype])


DECODES = [
    (0, 1, None),
    (0, 16, 1),
    (1, 16, 40),
    (2, 16, None),
    (3, 7, 200),
    (4, 4, 130),
    (5, 16, 40),
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "page_size", "window"), DECODES)
def test_attention_of_decodes(device, monkeypatch, dtype, heads, page_size, window):
    """Contexts of one token to three splits; windows that begin in the second split."""
    monkeypatch.setattr(attention, "SPLIT", 128)
    heads, kv_heads, width = HEADS[heads]
    rows, num_pages = paged([(end - 1, end) for end in (1, 128, 129, 300)], page_size, device)
    q = torch.randn(4, heads, width).to(device, dtype)
    pages = pages_of(num_pages, page_size, kv_heads, width, q)
    got = attention.decode_attention(q, pages, rows, window)
    expected = reference.paged_attention(q, pages, rows, window)
    assert_near(got, expected, TYPES[dtype])
    assert_near(attention.chunk_attention(q, pages, rows, window), expected, TYPES[dtype])


@pytest.mark.parametrize("window", [None, 30])
def test_attention_does_not_depend_on_batch_or_chunk(device, window):
    """To the last bit: each prompt alone and cut in two, against all of them together."""
    rows, num_pages = paged([(0, 33), (0, 90)], 4, device)
    q = torch.randn(int(rows.row_start[-1]), 3, 16, device=device)
    pages = pages_of(num_pages, 4, 1, 16, q)
    together = attention.chunk_attention(q, pages, rows, window)
    for b, (first, end) in enumerate(
        zip(rows.row_start[:-1].tolist(), rows.row_start[1:].tolist())
    ):
        for start, stop in ((first, first + 31), (first + 31, end)):
            part = PagedRows.of(
                torch.tensor([0, stop - start], device=device),
                rows.positions[start:stop], rows.page_table[b : b + 1],
            )  # fmt: skip
            alone = attention.chunk_attention(q[start:stop], pages, part, window)
            assert_same(alone, together[start:stop])


def test_a_decode_does_not_depend_on_longer_ones_beside_it(device):
    rows, num_pages = paged([(40, 41), (1300, 1301)], 16, device)
    q = torch.randn(2, 3, 16, device=device)
    pages = pages_of(num_pages, 16, 1, 16, q)
    alone = PagedRows.of(torch.arange(2, device=device), rows.positions[:1], rows.page_table[:1])
    one = attention.decode_attention(q[:1], pages, alone)
    assert_same(one, attention.decode_attention(q, pages, rows)[:1])


def test_decode_attention_refuses_chunks(device):
    rows, num_pages = paged([(0, 2)], 4, device)
    q = torch.randn(2, 1, 16, device=device)
    with pytest.raises(ValueError, match="chunk_attention"):
        attention.decode_attention(q, pages_of(num_pages, 4, 1, 16, q), rows)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("heads", [0, 1, 2])
@pytest.mark.parametrize(("page_size", "with_norm"), [(1, False), (6, True), (16, False)])
def test_rotation_and_store(device, heads, page_size, kind, with_norm):
    heads, kv_heads, width = HEADS[heads]
    rows, num_pages = paged([(0, 3), (15, 18), (40, 41)], page_size, device)
    q, k, v = (
        torch.randn(int(rows.row_start[-1]), n, width, device=device)
        for n in (heads, kv_heads, kv_heads)
    )
    table = torch.randn(64, width, device=device)
    weights = [torch.rand(width, device=device) + 0.5 for _ in range(2)]
    norm = HeadNorm(*weights, 1e-5) if with_norm else None
    found = []
    for room in (reference, rotary):
        shape = (num_pages, page_size, kv_heads, width)
        pages = Pages(*(torch.full(shape, 7.0, dtype=kind, device=device) for _ in range(2)))
        turned = room.rotate_and_store(q, k, v, table, rows, pages, norm)
        found.append((turned, pages.keys, pages.values))
    for expected, got in zip(*found):
        assert_near(got, expected, 1e-5 if kind == torch.float32 else 2e-3)
    untouched = (found[0][1] == 7).all(-1)
    assert untouched.any() and torch.equal(untouched, (found[1][1] == 7).all(-1))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("num_rows", "outputs", "inputs"), [(1, 1, 32), (5, 70, 96), (33, 64, 160)]
)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_of_codes(device, bits, num_rows, outputs, inputs, dtype, with_bias):
    codes = torch.randint(0, 2**bits, (outputs, inputs), dtype=torch.uint8, device=device)
    scale = torch.rand(outputs, inputs // 32, device=device) / 2**bits
    offset = torch.randn(outputs, inputs // 32, device=device)
    weight = BlockWeight.pack(codes, scale, offset, bits)
    exact = scale.repeat_interleave(32, 1) * codes + offset.repeat_interleave(32, 1)
    assert torch.equal(weight.dense(), exact)
    x = (torch.randn(num_rows, inputs, device=device) / inputs**0.5).to(dtype)
    bias = torch.randn(outputs, device=device) if with_bias else None
    got = linear.block_linear(x, weight, bias)
    assert_near(got, reference.block_linear(x, weight, bias), TYPES[dtype])
    assert_same(got[:1], linear.block_linear(x[:1].contiguous(), weight, bias))


def test_codes_that_fit_no_block_are_refused():
    codes, scale = torch.zeros(2, 40, dtype=torch.uint8), torch.zeros(2, 1)
    with pytest.raises(ValueError, match="multiple of 32"):
        BlockWeight.pack(codes, scale, scale, 4)


def pool_of(ranks, inputs, widths, block, device):
    """Adapters of random values in shuffled blocks; their linear layers 1, 2, ... have `widths`
    outputs, layer 0 is another one that none of them changes."""
    parts, flats = np.zeros((len(ranks), 1 + len(widths), 3), np.int64), []
    for x, rank in enumerate(ranks):
        sizes = [-(-width // 16) * 16 * rank for n in widths for width in (inputs, n)]
        ends = np.cumsum([0, *sizes])
        for layer in range(len(widths)):
            parts[x, layer + 1] = rank, ends[2 * layer], ends[2 * layer + 1]
        flats.append(torch.randn(int(ends[-1])) / 4)
    counts = [-(-len(flat) // block) for flat in flats]
    order = np.random.default_rng(0).permutation(sum(counts) + 2)
    memory = torch.full((len(order) * block,), torch.nan)
    table, at = np.zeros((len(ranks), max(*counts, 1)), np.int64), 0
    for x, flat in enumerate(flats):
        for number, values in enumerate(flat.split(block) if len(flat) else ()):
            table[x, number] = order[at] * block
            memory[table[x, number] :][: len(values)] = values
            at += 1
    scale = torch.rand(len(ranks)) + 0.5
    tables = (torch.from_numpy(table).to(device), torch.from_numpy(parts).to(device))
    return AdapterPool(memory.to(device), block, *tables, scale.to(device), max(ranks))


@pytest.mark.parametrize(
    ("ranks", "inputs", "widths", "block"),
    [((16, 0), 16, (24,), 48), ((1, 8, 40), 96, (130, 20), 64), ((5, 0, 17), 70, (64, 8, 8), 8)],
)
@pytest.mark.parametrize("dtype", TYPES)
def test_adapters_of_mixed_ranks(device, ranks, inputs, widths, block, dtype):
    """Sequences without adapter, with one, with one of rank 0; without rows; decodes and chunks.
    What lies beside an adapter's blocks is not a number."""
    lengths = [1, 19, 0, 3, 1, 2, 1]
    start = torch.tensor([0, *np.cumsum(lengths)], device=device)
    table = torch.zeros(len(lengths), 1, device=device)
    rows = PagedRows.of(start, torch.zeros(int(start[-1]), device=device), table)
    adapter = torch.tensor([i % (len(ranks) + 1) - 1 for i in range(len(lengths))])
    adapter = adapter.to(device, torch.int32)
    pool = pool_of(ranks, inputs, widths, block, device)
    x, *before = ((torch.randn(int(start[-1]), n) / 4).to(device, dtype) for n in (inputs, *widths))
    found = []
    for room in (reference, lora):
        outputs = [y.clone() for y in before]
        room.add_lora(outputs, x, pool, 1, rows, adapter)
        found.append(outputs)
    free = (adapter < 0)[rows.owner.long()]
    for y, expected, got in zip(before, *found):
        assert_near(got, expected, max(TYPES[dtype], 1e-4))
        assert free.any() and torch.equal(got[free], y[free])
        assert not torch.equal(got[~free], y[~free])


def test_a_step_of_decodes_and_chunks(device):
    """Sequences with one row come first and are computed apart from the others."""
    rows, num_pages = paged([(4, 5), (64, 65), (0, 9), (30, 31)], 4, device)
    q = torch.randn(int(rows.row_start[-1]), 4, 16, device=device)
    pages = pages_of(num_pages, 4, 2, 16, q)
    expected = reference.paged_attention(q, pages, rows)
    for singles in (0, 1, 2):
        assert_near(attention.attention(q, pages, rows, singles), expected, 2e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [1, 24, 576, 1000])
@pytest.mark.parametrize("with_extra", [False, True])
def test_norm(device, dtype, width, with_extra):
    x, extra = (torch.randn(5, width).to(device, dtype) for _ in range(2))
    weight = torch.randn(width, device=device)
    found = []
    for room in (reference, rowwise):
        residual = x.clone()
        out = room.rms_norm(residual, weight, 1e-5, extra if with_extra else None)
        found.append((out, residual))
    for expected, got in zip(*found):
        assert_near(got, expected, TYPES[dtype])
    assert torch.equal(found[1][1], x) != with_extra


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 700)])
def test_gate(device, dtype, shape):
    gate, up = (torch.randn(shape).to(device, dtype) * 8 for _ in range(2))
    assert_near(rowwise.silu_mul(gate, up), reference.silu_mul(gate, up), TYPES[dtype])


@pytest.mark.parametrize("vocabulary", [2, 1000, 9001])
def test_logprobs_of_tokens(device, vocabulary):
    logits = torch.randn(6, vocabulary, device=device) * 30
    logits[0, 1:] = float("-inf")  # a grammar leaves one token
    logits[1, : vocabulary - 1] = float("-inf")  # the last one: whole blocks see nothing
    ids = torch.tensor([0, vocabulary - 1, 0, 1, 1, vocabulary - 1], device=device)
    temperature = torch.tensor([1.0, 0.7, 0.1, 1.0, 2.0, 50.0], device=device)
    got = rowwise.token_logprobs(logits, ids, temperature)
    assert_near(got, reference.token_logprobs(logits, ids, temperature), 1e-5)
    assert got[0] == 0 and got[1] == 0
