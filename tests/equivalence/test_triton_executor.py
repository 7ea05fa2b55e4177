"""The Triton executor computes what the plain one does: here in Triton's interpreter, on `tiny`.

Logits of single steps are compared, since the interpreter takes long; one test serves requests.
For a GPU, the same steps and CUDA graphs:

    TRITON_INTERPRET=0 pytest -m gpu tests/equivalence/test_triton_executor.py
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from evolute.engine import Engine
from evolute.engine.config import EngineConfig, resolve
from evolute.engine.execution.batch import Segment, build_batch
from evolute.engine.execution.decode_graphs import capture
from evolute.engine.execution.torch_executor import TorchExecutor
from evolute.engine.execution.triton_executor import TritonExecutor
from evolute.models import BlockQuantized, LoadedModel, LoraConfig, LoraWeights, ModelWeights, pack
from evolute.models.tiny import CONFIG, tiny_tokenizer, tiny_weights
from evolute.types import BackendError, ConfigError, SamplingParams

INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"
SHAPE = dataclasses.replace(CONFIG, num_layers=1)
RANKS = {0: 3, 1: 20, 2: 8}
SAME = 1e-4


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if (request.param == "interpreter") != INTERPRETED:
        pytest.fail(f"TRITON_INTERPRET is {os.environ['TRITON_INTERPRET']}: see the file's head")
    return "cpu" if INTERPRETED else "cuda"


def model_of(**changes) -> LoadedModel:
    config = dataclasses.replace(SHAPE, **changes)
    return LoadedModel("tiny", config, tiny_weights(config), tiny_tokenizer())


def executors(model, device, record=None, **changes):
    """The plain one, in float32, and ours, with the same other settings."""
    given = {"page_size": 4, "memory_mb": 1, "cuda_graphs": "off"} | changes
    config = EngineConfig(executor="triton", device=device, **given)
    settings = resolve(config, model.config, cores=1, has_native=False, triton_fault="")
    numbers = dataclasses.replace(settings.config, precision="float32")
    plain = dataclasses.replace(settings, config=numbers)
    return (
        TorchExecutor(model.config, model.weights, plain),
        TritonExecutor(model, settings, record),
    )


def lora_of(index, config=SHAPE):
    targets = ("q_proj", "v_proj", "down_proj") if index == 2 else LoraConfig().targets
    weights = LoraWeights.init(LoraConfig(RANKS[index], targets=targets), config, index)
    for _, b in weights.tensors.values():
        b.normal_(std=0.1, generator=torch.Generator().manual_seed(index))
    return pack(weights)


def give_adapters(executor, has_pages=True):
    """To pages that lie apart, the last ones first."""
    spare = 400
    for index in RANKS:
        packed = lora_of(index)
        count = -(-packed.num_bytes // executor.page_bytes)
        pages = list(range(spare + 2 * count, spare, -2)) if has_pages else None
        spare += 2 * count
        if pages:
            executor.write_adapter(packed, pages)
        executor.set_adapter(index, packed, pages)


PAGES = [[9, 3, 7, 30, 31], [2, 11, 5, 32, 33], [6, 1, 20, 34, 35], [8, 4, 21, 36, 37]]


def segment(row, start, count, adapter=-1, **given):
    ids = [(31 * row + 7 * at + at * at) % 250 for at in range(start, start + count)]
    return Segment(ids, start, PAGES[row], adapter, **given)


# A ragged prefill; chunks behind prefixes beside a decode; decodes alone
STEPS = [
    [segment(0, 0, 9, logits_from=5), segment(1, 0, 1), segment(2, 0, 6, logits_from=5)],
    [segment(0, 9, 1, logits_from=9), segment(1, 1, 7, logits_from=7), segment(2, 6, 2)],
    [segment(0, 10, 1, logits_from=10), segment(1, 8, 1), segment(2, 8, 1, logits_from=8)],
]


def assert_steps_agree(pair, steps=STEPS, adapters=(-1, -1, -1), within=SAME):
    for step in steps:
        step = [dataclasses.replace(s, adapter=a) for s, a in zip(step, adapters)]
        plain, ours = (executor.forward(build_batch(step)).copy() for executor in pair)
        assert ours.shape == plain.shape and ours.dtype == np.float32
        logprobs = [torch.from_numpy(x).log_softmax(-1) for x in (ours, plain)]
        torch.testing.assert_close(*logprobs, atol=within, rtol=within)
        assert within > SAME or (ours.argmax(-1) == plain.argmax(-1)).all()


VARIANTS = {
    "llama": {},
    "window": {"architecture": "mistral", "sliding_window": 3, "tie_embeddings": False},
    "biases": {"architecture": "qwen2", "qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "norms of heads": {"architecture": "qwen3", "qk_norm": True, "head_width": 24},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_chunks_and_decodes(device, name):
    assert_steps_agree(executors(model_of(**VARIANTS[name]), device))


@pytest.mark.parametrize("kv_dtype", ["float16", "bfloat16"])
def test_pages_of_half_the_size(device, kv_dtype):
    """The plain one rounds the same keys, so little is left to differ."""
    assert_steps_agree(executors(model_of(), device, kv_dtype=kv_dtype), within=2e-2)


@pytest.mark.parametrize("paging", [True, False])
def test_adapters_of_mixed_ranks_and_none(device, paging):
    pair = executors(model_of(), device, adapter_paging=paging)
    for executor in pair:
        give_adapters(executor, paging)
    assert_steps_agree(pair, STEPS[1:2], adapters=(1, -1, 2))
    for executor in pair:
        executor.drop_adapter(1)
    found = [pair[1].forward(build_batch([segment(3, 0, 1, a, logits_from=0)])).copy()
             for a in (-1, 0)]  # fmt: skip
    assert np.abs(found[0] - found[1]).max() > 0.01
    with pytest.raises(BackendError, match="adapter 1"):
        pair[1].forward(build_batch([segment(3, 0, 1, 1)]))


@pytest.mark.slow
@pytest.mark.parametrize("page_size", [1, 7, 16])
def test_two_layers_with_adapters_on_other_pages(device, page_size):
    pair = executors(model_of(num_layers=2), device, page_size=page_size, memory_mb=2)
    for executor in pair:
        for index in (0, 1, 2):
            packed = lora_of(index, pair[1].network.config)
            count = -(-packed.num_bytes // executor.page_bytes)
            first = 60 + sum(range(index + 1)) * 400 // page_size
            executor.write_adapter(packed, range(first, first + count))
            executor.set_adapter(index, packed, range(first, first + count))
    tables = [range(20 * row, 20 * row + 20) for row in range(3)]
    steps = [
        [dataclasses.replace(s, pages=table) for s, table in zip(step, tables)] for step in STEPS
    ]
    assert_steps_agree(pair, steps, adapters=(1, 0, 2))


def test_an_adapter_with_memory_of_its_own_may_change_its_size(device):
    pair = executors(model_of(), device, adapter_paging=False)
    for index in (0, 1, 0, 2):  # the memory grows; freed blocks are used again
        for executor in pair:
            executor.drop_adapter(0)
            executor.set_adapter(index, lora_of(index))
    step = [segment(row, 0, 2, logits_from=0) for row in (1, 2)]
    assert_steps_agree(pair, [step], adapters=(1, 2))


def coded(weights: ModelWeights, bits) -> ModelWeights:
    """Every matrix as codes of its own blocks."""
    found, draw = {}, np.random.default_rng(0)
    for name, tensor in weights.items():
        found[name] = tensor
        if tensor.dim() == 2:
            rows, columns = tensor.shape
            codes = draw.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
            scale = np.full((rows, columns // 32), 0.3 / 2**bits, np.float32)
            scale *= draw.random(scale.shape, np.float32) + 0.5
            found[name] = BlockQuantized(codes, scale, -scale * 2 ** (bits - 1), bits)
    return ModelWeights(found)


@pytest.mark.parametrize("bits", [4, pytest.param(5, marks=pytest.mark.slow), 8])
def test_the_codes_of_the_file(device, bits):
    """The plain executor computes with the same numbers in float32."""
    model = model_of()
    model = dataclasses.replace(model, weights=coded(model.weights, bits))
    if device == "cuda":
        pytest.skip("products of codes are in bfloat16 there: test_bfloat16 holds that")
    plain, ours = executors(model, device, precision="quantized", kv_dtype="float32")
    assert_steps_agree((plain, ours), STEPS[1:2])
    name = "layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(ours.read_weight(name, 3), plain.read_weight(name, 3))


def test_new_weights_are_all_or_nothing(device):
    model = model_of()
    plain, ours = executors(model, device)
    new = tiny_weights(model.config, seed=1)
    before = ours.forward(build_batch(STEPS[0])).copy()
    broken = ModelWeights({name: new[name] for name in list(new)[:-1]})
    with pytest.raises(Exception, match="lacks"):
        ours.set_weights(broken)
    assert np.array_equal(ours.forward(build_batch(STEPS[0])), before)
    for executor in (plain, ours):
        executor.set_weights(new)
    assert_steps_agree((plain, ours), STEPS[:1])
    assert np.array_equal(ours.read_weight("norm.weight", 5), new.array("norm.weight")[:5])


def test_pages_are_copied_out_and_back(device):
    plain, ours = executors(model_of(), device)
    ours.forward(build_batch(STEPS[0]))
    page = np.empty(ours.page_bytes, np.uint8)
    ours.read_page(PAGES[0][1], page)
    ours.write_page(50, page)
    again = np.empty_like(page)
    ours.read_page(50, again)
    assert page.any() and np.array_equal(page, again)
    plain.forward(build_batch(STEPS[0]))
    plain.read_page(PAGES[0][1], again)
    found = [x.view(np.float32) for x in (page, again)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def broken(x, weight, eps):
    raise RuntimeError("no C compiler")


@pytest.mark.parametrize(
    ("kernel", "told"), [(broken, "no C compiler"), (lambda x, weight, eps: 2 * x, "wrong numbers")]
)
def test_kernels_that_do_not_run_are_found_at_the_start(device, monkeypatch, kernel, told):
    monkeypatch.setattr("evolute.engine.execution.triton_executor.rms_norm", kernel)
    with pytest.raises(ConfigError, match=rf"{told}.*[Ss]et executor to 'torch'"):
        executors(model_of(), device)


# -- padded decodes and graphs -------------------------------------------------


def as_it_is(run):
    """Kept for the next step without a graph: the same buffers, the same padding."""
    return run


DECODES = [
    [segment(row, start, 1, logits_from=None if row == skip else start) for row in range(count)]
    for start, count, skip in ((0, 3, None), (1, 3, 1), (2, 4, None), (3, 3, 2))
]


@pytest.fixture
def record(device):
    return as_it_is if device == "cpu" else capture()


def test_padded_decodes_change_no_answer_and_no_page(device, record):
    """Three rows are computed as four, twice with one graph; adapters come and go."""
    pair = executors(model_of(), device, record)
    for executor in pair:
        give_adapters(executor)
    for step, adapters in zip(DECODES, [(-1, -1, -1), (-1,) * 3, (0, -1, 2, -1), (0, 2, -1)]):
        assert_steps_agree(pair, [step], adapters)
    graphs = pair[1].graphs
    assert (graphs.recorded, graphs.replayed) == (2, 2)
    page = np.empty(pair[1].page_bytes, np.uint8)
    for number in (0, 10, 12, 40):  # of nobody
        pair[1].read_page(number, page)
        assert not page.any()


def test_what_moves_is_recorded_anew(device, record):
    """Another rank, a table that grew, weights in place: no step reads what is gone."""
    pair = executors(model_of(), device, record)
    assert_steps_agree(pair, [[DECODES[0][0]]], [-1])
    for executor in pair:
        executor.set_weights(tiny_weights(SHAPE, seed=2))
    assert_steps_agree(pair, [[DECODES[1][0]]], [-1])
    for executor in pair:
        give_adapters(executor)
    assert_steps_agree(pair, [[DECODES[2][0]]], [1])
    assert (pair[1].graphs.recorded, pair[1].graphs.replayed) == (2, 1)


@pytest.mark.gpu
def test_graphs_on_and_off_are_equal(device):
    """To the last bit: the same kernels in the same order."""
    model = model_of(num_layers=2)
    found = []
    for setting in ("on", "off"):
        _, ours = executors(model, device, cuda_graphs=setting)
        give_adapters(ours)
        for _ in range(2):
            found += [[ours.forward(build_batch(step)).copy() for step in DECODES]]
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_bfloat16(device, bits):
    """Held to the plain executor in float32, as loosely as 8 bits of mantissa ask."""
    model = model_of()
    if bits:
        model = dataclasses.replace(model, weights=coded(model.weights, bits))
    pair = executors(model, device, precision="quantized" if bits else "bfloat16")
    assert_steps_agree(pair, within=0.15)


# -- a whole engine -------------------------------------------------------------

PROMPTS = [[(11 * i + j) % 250 for i in range(3 + 4 * j)] for j in range(3)]
ASKED = SamplingParams(max_new_tokens=4, temperature=0, prompt_logprobs=True, ignore_eos=True)


def served(executor, device, free=None, **settings):
    """Answers, and how often a request was preempted; `free` pages are left, if it is given."""
    given = {"page_size": 4, "memory_mb": 1, "num_threads": 1} | settings
    with Engine(model_of(), executor=executor, device=device, **given) as engine:
        pool = engine._core.placement.pool
        engine._loop._inspect = lambda: None  # it would take back what is held
        held = [] if free is None else pool.allocate(pool.num_free - free)
        outputs = engine.generate(PROMPTS, ASKED)
        pool.free(held)
        engine.check()
        return outputs, engine.stats().counts.preemptions


@pytest.mark.parametrize(
    "settings",
    [
        {"token_budget": 7, "free": 4},
        pytest.param({"speculation": "ngram", "ngram_min": 1}, marks=pytest.mark.slow),
        pytest.param({"page_size": 1, "prefix_cache": False}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_an_engine_answers_as_the_plain_one(device, settings):
    """In chunks, with requests that give their pages back and begin anew."""
    plain, _ = served("torch", device, **settings)
    ours, preemptions = served("triton", device, **settings)
    assert bool(preemptions) == ("free" in settings)
    for one, two in zip(ours, plain, strict=True):
        assert one.token_ids == two.token_ids and not one.error and not two.error
        assert one.logprobs == pytest.approx(two.logprobs, abs=SAME)
        assert one.prompt_logprobs[1:] == pytest.approx(two.prompt_logprobs[1:], abs=SAME)
