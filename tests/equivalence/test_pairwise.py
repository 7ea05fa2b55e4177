"""Every two savings together: each row of a covering array answers as its plain reference does.

The reference of a row has the same numbers (executor, precision, kv_dtype, sampler) and no
saving: no prefix cache, whole prompts, one request at a time, adapters apart, no guesses, no token
that a grammar forces computed beside others.

Greedy tokens must be equal. Where rounding may differ (another executor) two tokens can be so
near to one another that either may win. Then an answer is held to its own context: the reference
reads the prompt with the answer, and each token must be within NEAR of the best one there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import random
from collections.abc import Sequence

import pytest
import torch
from covering import Row, covering, pairs_of

from evolute.engine import Engine
from evolute.engine.core import Counts
from evolute.models import LoadedModel, LoraConfig, LoraWeights, load_model
from evolute.models.packed_lora import pack
from evolute.types import GenerateRequest, Output, SamplingParams

FACTORS = {
    "level": ("native float32", "native quantized", "native int8", "torch float32"),
    "kv_dtype": ("float32", "float16"),
    "prefix_cache": (True, False),
    "token_budget": (512, 33, 7),  # 512: prompts are computed whole
    "max_running": (64, 3, 1),
    "adapters": ("mixed", "none"),
    "adapter_paging": (True, False),
    "adapter_prefetch": (True, False),
    "speculation": ("ngram", "none"),
    "jump_forward": (True, False),
    "policy": ("dlpm", "vtc", "lpm", "fcfs", "priority"),
    "page_size": (16, 4, 1),
    "sampler": ("native", "plain"),
    "pages": ("ample", "few"),  # few: requests are preempted
}
SAME = 1e-4  # log-probabilities beside the reference's, where sums take another order
ROUGH = 3e-3  # the same where a float32 that sums otherwise is then rounded to float16
READ = {"float32": 1e-3, "float16": ROUGH}  # of decoding beside those of reading the whole
NEAR = 2 * SAME  # how far below the best a greedy token may be, by the reference
WAIT_S = 60
BOUND = r"(name: [a-z]{2}; age: [0-9]{2}\. ){9}"  # the last request's: most of it is forced


def is_allowed(row: Row) -> bool:
    """What the engine accepts. A row in the making is judged by what it has."""
    on_torch = row.get("level") == "torch float32"
    return not (on_torch and row.get("sampler") == "native")


ROWS = covering(FACTORS, is_allowed)


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """A model, what is asked of it, and how its adapters are made."""

    model: LoadedModel
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int
    std: float
    memory_mb: int

    @functools.cached_property
    def loras(self) -> dict[str, LoraWeights]:
        return {name: self._lora(seed) for seed, name in enumerate(["ann", "bob"])}

    def _lora(self, seed: int) -> LoraWeights:
        config = LoraConfig(rank=4 + 4 * seed)
        weights = LoraWeights.init(config, self.model.config, seed)
        for _, b in weights.tensors.values():
            b.normal_(std=self.std, generator=torch.Generator().manual_seed(seed))
        return weights

    def requests(self, adapters: str) -> list[GenerateRequest]:
        names = itertools.cycle([None, "ann", "bob"] if adapters == "mixed" else [None])
        asked = SamplingParams(temperature=0, max_new_tokens=self.new_tokens, ignore_eos=True)
        requests = [
            GenerateRequest(ids, asked, name, tenant=f"t{i % 2}")
            for i, (ids, name) in enumerate(zip(self.prompts, names))
        ]
        bound = dataclasses.replace(asked, regex=BOUND)
        return [*requests[:-1], dataclasses.replace(requests[-1], sampling=bound)]


def tiny_prompts() -> tuple[tuple[int, ...], ...]:
    draw = random.Random(1)
    shared = [draw.randrange(250) for _ in range(37)]
    words = [[draw.randrange(250) for _ in range(4)] for _ in range(3)]
    tails = [
        [token for _ in range(size) for token in draw.choice(words)] for size in (2, 9, 4, 6, 1, 12)
    ]
    return tuple((*shared, *tail) for tail in tails) + ((7, 8, 9),)


TINY = Work(load_model("tiny"), tiny_prompts(), new_tokens=24, std=0.05, memory_mb=4)


@functools.cache
def embedded() -> Work:
    model = load_model("smollm2-135m")
    system = "<|im_start|>system\nAnswer in one line.<|im_end|>\n<|im_start|>user\n"
    asked = ("Count: one, two, one, two, one,", "What is water?", "List ten fruits.", "Hello")
    texts = [f"{system}{text}<|im_end|>\n<|im_start|>assistant\n" for text in asked]
    prompts = tuple(tuple(model.tokenizer.encode(text)) for text in texts)
    return Work(model, prompts, new_tokens=16, std=0.02, memory_mb=64)


def engine_of(work: Work, row: Row) -> Engine:
    executor, precision = str(row["level"]).split()
    own = {name: v for name, v in row.items() if name not in ("level", "adapters", "pages")}
    guesses = {"ngram_min": 1, "speculate_up_to": 64, "num_threads": 1}
    kind = {"executor": executor, "precision": precision, "memory_mb": work.memory_mb}
    engine = Engine(work.model, **kind, **own, **guesses)
    if row["adapters"] == "mixed":
        for name, weights in work.loras.items():
            engine.load_adapter(name, weights)
    return engine


def serve(engine: Engine, requests: Sequence[GenerateRequest]) -> list[Output]:
    """All begin in the same step, so that what is scheduled does not depend on the clock."""

    async def everything() -> list[list[Output]]:
        fresh = [dataclasses.replace(r, id=f"{i}-{id(r)}") for i, r in enumerate(requests)]
        engine.pause()
        sent = [asyncio.create_task(engine.agenerate(r)) for r in fresh]
        while engine.stats().waiting < len(fresh) and not any(one.done() for one in sent):
            await asyncio.sleep(0.001)
        engine.resume()
        return await asyncio.wait_for(asyncio.gather(*sent), WAIT_S)

    return [outputs[0] for outputs in asyncio.run(everything())]


def reading(request: GenerateRequest, output: Output) -> GenerateRequest:
    """The prompt with the answer, to be scored by prefill."""
    asked = SamplingParams(
        temperature=0,
        max_new_tokens=0,
        prompt_logprobs=True,
        prompt_logprobs_from=len(request.prompt) - 1,
        prompt_top_logprobs=1,
    )
    return dataclasses.replace(request, prompt=(*request.prompt, *output.token_ids), sampling=asked)


PLAIN = {
    "prefix_cache": False,
    "token_budget": 512,
    "max_running": 1,
    "adapter_paging": False,
    "adapter_prefetch": False,
    "speculation": "none",
    "jump_forward": False,
    "policy": "fcfs",
    "page_size": 16,
    "pages": "ample",
}


@functools.cache
def reference(work: Work, level: str, kv_dtype: str, sampler: str, adapters: str) -> list[Output]:
    numbers = {"level": level, "kv_dtype": kv_dtype, "sampler": sampler}
    row = {**numbers, "adapters": adapters, **PLAIN}
    with engine_of(work, row) as engine:
        return [serve(engine, [one])[0] for one in work.requests(adapters)]


def hold_pages(engine: Engine, work: Work) -> list[int]:
    """Take all pages but those of the adapters and of one and a half of the longest request."""
    engine._loop._inspect = lambda: None  # it would take back what is held
    pool, size = engine._core.placement.pool, engine.config.page_size
    longest = max(map(len, work.prompts)) + work.new_tokens
    bytes_of = engine._core.settings.page_bytes
    adapters = sum(-(-pack(one).num_bytes // bytes_of) for one in work.loras.values())
    return pool.allocate(pool.num_free - int(1.5 * -(-longest // size)) - adapters)


def worst(found: Sequence[float], expected: Sequence[float]) -> float:
    return max((abs(a - b) for a, b in zip(found, expected, strict=True)), default=0.0)


def tolerance(row: Row) -> float:
    """The native kernels sum alike whoever else is in the batch: there it is the last bit that
    must be equal. Torch's sums depend on the number of rows, and float16 makes a step of them."""
    if row["level"] != "torch float32":
        return 0.0
    return ROUGH if row["kv_dtype"] == "float16" else SAME


def below_best(engine: Engine, request: GenerateRequest, output: Output) -> list[float]:
    """How far each token of an answer is below the likeliest one at its place, by `engine`."""
    (read,) = serve(engine, [reading(request, output)])
    best = [top[0].logprob for top in read.prompt_top_logprobs[1:]]
    return [top - told for top, told in zip(best, read.prompt_logprobs[1:], strict=True)]


def check_answers(work: Work, row: Row, found: Sequence[Output], expected: Sequence[Output]) -> int:
    """Tokens and log-probabilities are the reference's. Returns how many went another way at
    a tie."""
    requests, ties = work.requests(row["adapters"]), 0
    for request, mine, plain in zip(requests, found, expected, strict=True):
        assert (mine.finish_reason, len(mine.logprobs)) == ("length", work.new_tokens)
        if mine.token_ids == plain.token_ids:
            assert worst(mine.logprobs, plain.logprobs) <= tolerance(row)
            continue
        ties += 1
        with engine_of(work, {**row, **PLAIN}) as engine:
            assert max(below_best(engine, request, mine)) <= NEAR
    return ties


def try_row(work: Work, row: Row) -> tuple[Counts, int]:
    """Serve twice, then read the answers; hold all to the reference."""
    numbers = (row["level"], row["kv_dtype"], row["sampler"])
    expected = reference(work, *numbers, row["adapters"])
    with engine_of(work, row) as engine:
        pool = engine._core.placement.pool
        held = hold_pages(engine, work) if row["pages"] == "few" else []
        requests = work.requests(row["adapters"])
        if row["policy"] == "priority":
            requests = [dataclasses.replace(r, priority=i % 3) for i, r in enumerate(requests)]
        answers = [serve(engine, requests) for _ in range(2)]
        read = serve(engine, [reading(r, o) for r, o in zip(requests, answers[0])])
        pool.free(held)
        engine.check()
        counts = engine.stats().counts
    for output, whole in zip(answers[0], read, strict=True):
        assert worst(whole.prompt_logprobs[1:], output.logprobs) <= READ[str(row["kv_dtype"])]
    assert (counts.cached_tokens > 0) == row["prefix_cache"]
    assert (counts.accepted_tokens > 0) == (row["speculation"] == "ngram")
    assert (counts.jumped_tokens > 0) == row["jump_forward"]
    return counts, sum(check_answers(work, row, found, expected) for found in answers)


def name_of(row: Row) -> str:
    return "-".join(str(value).replace(" ", "_") for value in row.values())


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_all_savings_together_change_no_answer(row: Row) -> None:
    counts, ties = try_row(TINY, row)
    assert ties == 0
    assert counts.preemptions == 0 or row["pages"] == "few" or row["policy"] == "dlpm"


def test_every_two_settings_meet() -> None:
    met = set().union(*map(pairs_of, ROWS))
    for one, two in itertools.combinations(FACTORS, 2):
        for a, b in itertools.product(FACTORS[one], FACTORS[two]):
            assert frozenset(((one, a), (two, b))) in met or not is_allowed({one: a, two: b})
    assert all(map(is_allowed, ROWS)) and len(ROWS) < 40


def test_a_wrong_token_is_no_tie() -> None:
    """The rule for ties takes the answer itself, and finds one token that is not the best."""
    row = {**ROWS[0], **PLAIN, "level": "native float32", "adapters": "none"}
    request = TINY.requests("none")[0]
    with engine_of(TINY, row) as engine:
        (answer,) = serve(engine, [request])
        assert max(below_best(engine, request, answer)) <= NEAR
        wrong = list(answer.token_ids)
        wrong[5] = (wrong[5] + 1) % 250
        spoilt = dataclasses.replace(answer, token_ids=tuple(wrong))
        assert below_best(engine, request, spoilt)[5] > NEAR


def test_requests_were_preempted() -> None:
    """`few` is few enough: else its rows would show nothing."""
    row = {**ROWS[0], **PLAIN, "max_running": 64, "pages": "few", "level": "native float32"}
    counts, _ = try_row(TINY, row)
    assert counts.preemptions > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_all_savings_together_on_the_embedded_model(row: Row) -> None:
    counts, ties = try_row(embedded(), row)
    print(f"{name_of(row)}: {ties} ties, {counts.preemptions} preemptions")
