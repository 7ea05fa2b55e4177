"""The native step is the references put together; it refuses bad steps before it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from evolute.kernels import reference
from evolute.kernels.reference import AdapterPool, HeadNorm, PagedRows, Pages

kernels = pytest.importorskip("evolute.kernels", reason="the native kernels are not built")
CONTEXT, VOCABULARY = 160, 75
SHAPE = kernels.DecoderShape(2, 48, 6, 2, 16, 80, VOCABULARY, 1e-5)
SHAPES = {
    "plain": SHAPE,
    "one kv head, wide heads": dataclasses.replace(SHAPE, num_kv_heads=1, head_width=48),
    "normed heads": dataclasses.replace(SHAPE, qk_norm=True, num_kv_heads=6),
    "window": dataclasses.replace(SHAPE, sliding_window=21),
}
MODULES = ("q", "k", "v", "o", "gate", "up", "down")
Adapter = dict[tuple[int, str], tuple[Tensor, Tensor]]


def size_of(shape: kernels.DecoderShape, module: str) -> tuple[int, int]:
    """Outputs and inputs."""
    q, kv = shape.num_heads * shape.head_width, shape.num_kv_heads * shape.head_width
    outputs = dict(zip(MODULES, (q, kv, kv, shape.width, shape.ff_width, shape.ff_width)))
    inputs = {"o": q, "down": shape.ff_width}
    return outputs.get(module, shape.width), inputs.get(module, shape.width)


@dataclass
class Model:
    """Random weights; the references' step over pages of its own."""

    shape: kernels.DecoderShape
    adapters: dict[int, tuple[Adapter, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        s = self.shape
        self.linear = {
            (layer, m): (torch.randn(size_of(s, m)) * 0.2, torch.randn(size_of(s, m)[0]) * 0.2)
            for layer in range(s.num_layers)
            for m in MODULES
        }
        widths = {"attention": s.width, "mlp": s.width}
        widths |= {"q": s.head_width, "k": s.head_width} if s.qk_norm else {}
        self.norms = {
            (layer, name): torch.rand(width) + 0.5
            for layer in range(s.num_layers)
            for name, width in widths.items()
        }
        self.final_norm = torch.rand(s.width) + 0.5
        self.embedding, self.head = torch.randn(2, VOCABULARY, s.width)
        angle = torch.arange(CONTEXT)[:, None] * 10.0 ** -torch.linspace(0, 3, s.head_width // 2)
        self.rotary = torch.cat([angle.cos(), angle.sin()], 1)

    def native(self, threads: int = 2) -> kernels.NativeDecoder:
        decoder = kernels.NativeDecoder(self.shape, self.rotary.numpy(), threads)
        pack = lambda w: kernels.PackedLinear.from_float32(w.numpy())  # noqa: E731
        for (layer, module), (weight, bias) in self.linear.items():
            decoder.set_linear(layer, module, pack(weight), bias.numpy())
        for (layer, name), weight in self.norms.items():
            decoder.set_norm(layer, name, weight.numpy())
        decoder.set_final_norm(self.final_norm.numpy())
        decoder.set_vocabulary(pack(self.embedding), pack(self.head))
        for index, (weights, scale) in self.adapters.items():
            decoder.set_adapter(index, weights, scale)
        return decoder

    def pages(self, num_pages: int, page_size: int, dtype: torch.dtype) -> list[Pages]:
        size = (num_pages, page_size, self.shape.num_kv_heads, self.shape.head_width)
        return [
            Pages(torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype))
            for _ in range(self.shape.num_layers)
        ]

    def step(self, pages: list[Pages], token_ids: Tensor, rows: PagedRows, adapter: Tensor):
        """Logits [T, V] by the references."""
        s, extra = self.shape, None
        x = self.embedding[token_ids]
        for layer in range(s.num_layers):
            h = reference.rms_norm(x, self.norms[layer, "attention"], s.norm_eps, extra)
            q, k, v = (self._linear(layer, m, h, rows, adapter) for m in "qkv")
            norm = None
            if s.qk_norm:
                norm = HeadNorm(self.norms[layer, "q"], self.norms[layer, "k"], s.norm_eps)
            q, k, v = (y.view(len(x), -1, s.head_width) for y in (q, k, v))
            q = reference.rotate_and_store(q, k, v, self.rotary, rows, pages[layer], norm)
            o = reference.paged_attention(q, pages[layer], rows, s.sliding_window).flatten(1)
            extra = self._linear(layer, "o", o, rows, adapter)
            h = reference.rms_norm(x, self.norms[layer, "mlp"], s.norm_eps, extra)
            gate, up = (self._linear(layer, m, h, rows, adapter) for m in ("gate", "up"))
            extra = self._linear(layer, "down", reference.silu_mul(gate, up), rows, adapter)
        return reference.rms_norm(x, self.final_norm, s.norm_eps, extra) @ self.head.T

    def _linear(self, layer: int, module: str, x: Tensor, rows: PagedRows, adapter: Tensor):
        weight, bias = self.linear[layer, module]
        y = x @ weight.T + bias
        n, m = weight.shape
        nothing = (torch.zeros(0, m), torch.zeros(n, 0))
        held = [self.adapters.get(i, ({}, 1.0)) for i in range(max([0, *self.adapters]) + 1)]
        pool = AdapterPool.of([(*w.get((layer, module), nothing), scale) for w, scale in held])
        return reference.add_lora(y, x, pool, rows, adapter)


@dataclass
class Step:
    """A step's arrays; `changed` breaks one of them."""

    token_ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    row_start: NDArray[np.int32]
    context_len: NDArray[np.int32]
    page_table: NDArray[np.int32]
    adapter: NDArray[np.int32]
    logit_rows: NDArray[np.int32]

    @classmethod
    def of(cls, spans, page_size: int, adapter=None, seed: int = 0) -> Step:
        """Sequence b computes positions start : end; its pages are spread over all, reversed."""
        num = -(-CONTEXT // page_size)
        counts = [end - start for start, end in spans]
        table = [np.arange(num)[::-1] * len(spans) + b for b in range(len(spans))]
        arrays = (
            np.random.default_rng(seed).integers(0, VOCABULARY, sum(counts)),
            np.concatenate([np.arange(*span) for span in spans]),
            np.cumsum([0, *counts]),
            [end for _, end in spans],
            table,
            [-1] * len(spans) if adapter is None else adapter,
            np.arange(sum(counts)),
        )
        return cls(*(np.array(x, np.int32) for x in arrays))

    def run(self, decoder: kernels.NativeDecoder, pool: kernels.KvPool) -> NDArray[np.float32]:
        return decoder.forward(pool, **{f.name: getattr(self, f.name) for f in
                                        dataclasses.fields(self)})  # fmt: skip

    def by_reference(self, model: Model, pages: list[Pages]) -> NDArray[np.float32]:
        rows = PagedRows.of(*(torch.from_numpy(x) for x in
                              (self.row_start, self.positions, self.page_table)))  # fmt: skip
        ids = torch.from_numpy(self.token_ids).long()
        return model.step(pages, ids, rows, torch.from_numpy(self.adapter)).numpy()


def pool_of(
    shape: kernels.DecoderShape, page_size: int, sequences: int, dtype: str = "float32"
) -> kernels.KvPool:
    num_pages = -(-CONTEXT // page_size) * sequences
    return kernels.KvPool(
        shape.num_layers, num_pages, page_size, shape.num_kv_heads, shape.head_width, dtype
    )


def random_adapter(shape: kernels.DecoderShape, ranks: dict[str, int], seed: int) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    found: Adapter = {}
    for layer in range(shape.num_layers):
        for module, rank in ranks.items():
            n, m = size_of(shape, module)
            found[layer, module] = tuple(
                torch.randn(size, generator=random) * 0.3 for size in ((rank, m), (n, rank))
            )
    return found


PREFILL = [(0, 1), (0, 70), (0, 130)]
REST = [(1, 2), (70, 71), (130, 147)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("page_size", "dtype"), [(1, "float32"), (5, "float16"), (16, "float32")])
def test_two_steps_are_the_references_put_together(isa, name, page_size, dtype):
    """A step of prompts, then one of decodes and a chunk, which reads what the first wrote."""
    model = Model(SHAPES[name])
    pool = pool_of(model.shape, page_size, 3, dtype)
    pages = model.pages(3 * -(-CONTEXT // page_size), page_size, getattr(torch, dtype))
    decoder = model.native()
    for spans in (PREFILL, REST):
        step = Step.of(spans, page_size)
        expected = step.by_reference(model, pages)
        near = 2e-5 if dtype == "float32" else 2e-3  # a half may round the other way
        assert np.abs(step.run(decoder, pool) - expected).max() < near * np.abs(expected).max()


@pytest.fixture(scope="module")
def tenants() -> Model:
    """Adapters of several ranks on several modules."""
    adapters = {
        0: (random_adapter(SHAPE, dict.fromkeys(MODULES, 4), 1), 2.0),
        3: (random_adapter(SHAPE, {"q": 1, "down": 33}, 2), 0.5),
    }
    return Model(SHAPE, adapters)


def test_adapters_of_mixed_ranks_in_one_step(isa, tenants):
    step = Step.of([(0, 9), (0, 30), (0, 5), (0, 17)], 4, [3, -1, 0, 3])
    got = step.run(tenants.native(), pool_of(SHAPE, 4, 4))
    expected = step.by_reference(tenants, tenants.pages(160, 4, torch.float32))
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()
    plain = Step.of([(0, 9), (0, 30), (0, 5), (0, 17)], 4)
    without = plain.run(tenants.native(), pool_of(SHAPE, 4, 4))
    free = slice(9, 39)
    assert np.array_equal(got[free], without[free])
    assert np.abs(got - without)[39:].max() > 0.01


def test_an_adapter_is_replaced_and_dropped(tenants):
    decoder, step = tenants.native(), Step.of([(0, 9)], 4, [0])
    first = step.run(decoder, pool_of(SHAPE, 4, 1))
    decoder.set_adapter(0, random_adapter(SHAPE, {"v": 8}, 5), 1.0)
    second = step.run(decoder, pool_of(SHAPE, 4, 1))
    fresh = Model(SHAPE, {0: (random_adapter(SHAPE, {"v": 8}, 5), 1.0)}).native()
    assert np.array_equal(second, step.run(fresh, pool_of(SHAPE, 4, 1)))
    assert not np.array_equal(first, second)
    decoder.drop_adapter(0)
    with pytest.raises(ValueError, match="adapter 0 is not loaded"):
        step.run(decoder, pool_of(SHAPE, 4, 1))
    decoder.set_adapter(0, {}, 1.0)  # one that changes nothing
    plain = Step.of([(0, 9)], 4)
    assert np.array_equal(
        step.run(decoder, pool_of(SHAPE, 4, 1)), plain.run(decoder, pool_of(SHAPE, 4, 1))
    )


@pytest.mark.parametrize("broken", ["rank", "width", "layer"])
def test_an_adapter_of_another_shape_is_refused(tenants, broken):
    a, b, layer = np.zeros((4, 48), np.float32), np.zeros((96, 4), np.float32), 0
    if broken == "rank":
        b = np.zeros((96, 5), np.float32)
    elif broken == "width":
        a = np.zeros((4, 47), np.float32)
    else:
        layer = 2
    with pytest.raises(ValueError, match="adapter"):
        tenants.native().set_adapter(1, {(layer, "q"): (a, b)}, 1.0)


def test_the_number_of_threads_changes_nothing(isa, tenants):
    step = Step.of([(0, 70), (0, 3)], 16, [0, -1])
    decoder = tenants.native(threads=1)
    one = step.run(decoder, pool_of(SHAPE, 16, 2))
    for threads in (2, 5, 1):
        decoder.num_threads = threads
        assert decoder.num_threads == threads
        assert np.array_equal(step.run(decoder, pool_of(SHAPE, 16, 2)), one)
    with pytest.raises(ValueError, match="num_threads"):
        decoder.num_threads = 0


def test_only_the_rows_asked_for_are_computed_in_their_order(tenants):
    step = Step.of([(0, 20), (0, 8)], 4)
    every = step.run(tenants.native(), pool_of(SHAPE, 4, 2))
    step.logit_rows = np.array([27, 3, 3], np.int32)
    assert np.array_equal(step.run(tenants.native(), pool_of(SHAPE, 4, 2)), every[[27, 3, 3]])


def test_a_copied_page_is_as_good_as_its_source(tenants):
    decoder, pool = tenants.native(), pool_of(SHAPE, 16, 2)
    Step.of([(0, 40), (0, 40)], 16).run(decoder, pool)
    decode = Step.of([(40, 41), (40, 41)], 16, seed=4)
    first = decode.run(decoder, pool)[0]
    source, target = decode.page_table[0, :2], decode.page_table[1, :2]
    for one, two in zip(source, target):
        pool.copy_page(int(one), int(two))
    decode.page_table[0, :2] = target
    assert np.array_equal(decode.run(decoder, pool)[0], first)
    with pytest.raises(ValueError, match="page"):
        pool.copy_page(0, 20)


# Each breaks the second sequence of a step; the first would overwrite what is in memory.
BAD: dict[str, tuple[Callable[[Step], None], str]] = {
    "a page that is not there": (lambda s: s.page_table.__setitem__((1, 0), 20), "page 20"),
    "a negative page": (lambda s: s.page_table.__setitem__((1, 2), -1), "page -1"),
    "a position again": (lambda s: s.positions.__setitem__(45, 4), "rise"),
    "falling positions": (lambda s: s.positions.__setitem__(45, 0), "rise"),
    "a position past the context": (lambda s: s.positions.__setitem__(79, 40), "context_len"),
    "a negative position": (lambda s: s.positions.__setitem__(40, -1), "positions"),
    "a context past the page table": (lambda s: s.context_len.__setitem__(1, 161), "context_len"),
    "a negative context": (lambda s: s.context_len.__setitem__(1, -1), "context_len"),
    "a token outside": (lambda s: s.token_ids.__setitem__(60, VOCABULARY), "token id 75"),
    "a negative token": (lambda s: s.token_ids.__setitem__(60, -1), "token id -1"),
    "an unknown adapter": (lambda s: s.adapter.__setitem__(1, 7), "adapter 7"),
    "rows that fall": (lambda s: s.row_start.__setitem__(1, 81), "row_start|positions"),
    "rows that start late": (lambda s: s.row_start.__setitem__(0, 1), "row_start"),
    "rows that end late": (lambda s: s.row_start.__setitem__(2, 81), "row_start"),
    "a logit row outside": (lambda s: s.logit_rows.__setitem__(79, 80), "logit row 80"),
    "a negative logit row": (lambda s: s.logit_rows.__setitem__(0, -1), "logit row -1"),
    "lengths that disagree": (lambda s: setattr(s, "positions", s.positions[1:]), "disagree"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_step_is_refused_before_any_write(tenants, name):
    decoder, pool = tenants.native(), pool_of(SHAPE, 16, 2)
    Step.of([(0, 40), (0, 40)], 16).run(decoder, pool)
    decode = Step.of([(40, 41), (40, 41)], 16)
    before = decode.run(decoder, pool)
    step = Step.of([(0, 40), (0, 40)], 16, seed=3)
    spoil, message = BAD[name]
    spoil(step)
    with pytest.raises(ValueError, match=message):
        step.run(decoder, pool)
    assert np.array_equal(decode.run(decoder, pool), before)
    step = Step.of([(0, 40), (0, 40)], 16, seed=3)
    step.run(decoder, pool)
    assert not np.array_equal(decode.run(decoder, pool), before)  # it would have been seen


@pytest.mark.parametrize("missing", ["a linear layer", "a norm", "a norm of heads", "vocabulary"])
def test_a_decoder_that_is_not_complete_refuses_to_run(missing):
    model = Model(dataclasses.replace(SHAPE, qk_norm=True))
    if missing == "a linear layer":
        del model.linear[1, "down"]
    elif missing != "vocabulary":
        del model.norms[1, "mlp" if missing == "a norm" else "k"]
    decoder = model.native()
    if missing == "vocabulary":
        decoder = kernels.NativeDecoder(model.shape, model.rotary.numpy(), 1)
        for (layer, module), (weight, _) in model.linear.items():
            packed = kernels.PackedLinear.from_float32(weight.numpy())
            decoder.set_linear(layer, module, packed)
        for (layer, name), weight in model.norms.items():
            decoder.set_norm(layer, name, weight.numpy())
    with pytest.raises(ValueError, match="not set"):
        Step.of([(0, 3)], 16).run(decoder, pool_of(SHAPE, 16, 1))


def test_a_pool_of_another_model_is_refused(tenants):
    other = dataclasses.replace(SHAPE, num_layers=1)
    with pytest.raises(ValueError, match="another shape"):
        Step.of([(0, 3)], 16).run(tenants.native(), pool_of(other, 16, 1))


def test_weights_of_another_shape_are_refused(tenants):
    decoder = tenants.native()
    packed = kernels.PackedLinear.from_float32(np.zeros((48, 47), np.float32))
    with pytest.raises(ValueError, match="another shape"):
        decoder.set_linear(0, "o", packed)
    with pytest.raises(ValueError, match="expected 48"):
        decoder.set_norm(0, "mlp", np.zeros(47, np.float32))
    with pytest.raises(ValueError, match=r"\[V, D\]"):
        decoder.set_vocabulary(packed, packed)


def test_head_widths_that_the_kernels_cannot_read_are_refused():
    shape = dataclasses.replace(SHAPE, head_width=20)
    with pytest.raises(ValueError, match="torch executor"):
        kernels.NativeDecoder(shape, np.zeros((8, 20), np.float32), 1)
