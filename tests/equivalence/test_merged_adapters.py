"""S-LoRA's first condition: a mixed batch equals each adapter merged into the weights (A1)."""

import numpy as np
import pytest
import torch

from evolute.engine.adapters import AdapterTable
from evolute.engine.build import build_core
from evolute.engine.config import EngineConfig
from evolute.models import (
    Decoder,
    LoraConfig,
    LoraWeights,
    causal_attention,
    load_model,
    merge,
)
from evolute.models.lora import MODULES
from evolute.types import GenerateRequest, SamplingParams

TINY = load_model("tiny")
RANKS = [1, 2, 3, 4, 5, 8, 8, 12, 16, 16, 24, 32, 33, 48, 64, 64]
SETTINGS = SamplingParams(temperature=0, max_new_tokens=64, ignore_eos=True, prompt_logprobs=True)


def adapter(index):
    """Of all modules, or some; every third has a scale of its own."""
    targets = MODULES if index % 3 else MODULES[index % 7 :]
    config = LoraConfig(RANKS[index], alpha=RANKS[index] * (1 + index % 3) / 2, targets=targets)
    weights = LoraWeights.init(config, TINY.config, index)
    for _, b in weights.tensors.values():
        b.normal_(std=0.15, generator=torch.Generator().manual_seed(index))
    return weights


def run(executor, requests, adapters, memory_mb):
    """Outputs, and the logits that chose or scored each token, by request."""
    config = EngineConfig(executor=executor, memory_mb=memory_mb, token_budget=96)
    core = build_core(TINY, config, cores=2)
    table = AdapterTable(core, TINY.config, TINY.weights)
    for index, weights in enumerate(adapters):
        table.load(f"a{index}", weights, 1)
    logits, forward = {}, core._forward

    def recorded(work):
        done, rows, events = forward(work)
        at = 0
        for one in done:
            end = one.segment.start + len(one.segment.token_ids)
            for position in range(end - one.num_rows, end):
                logits[one.draft, position] = rows[at].copy()
                at += 1
        return done, rows, events

    core._forward = recorded
    drafts = [core.add(request, *table.resolve(request))[0] for request in requests]
    try:
        while not core.is_idle:
            core.step()
            core.check()
    finally:
        core.loader.close()
    found = []
    for draft in drafts:
        last = len(draft.request.prompt) + len(draft.token_ids) - 1
        found.append(np.stack([logits[draft, position] for position in range(last)]))
    return [draft.output.token_ids for draft in drafts], found, core


def oracle(weights, ids):
    decoder = Decoder(TINY.config)
    decoder.load(weights)
    with torch.inference_mode():
        hidden = decoder(torch.tensor(ids), torch.arange(len(ids)), causal_attention([len(ids)]))
        return (hidden @ decoder.head_weight.T).numpy()


@pytest.mark.parametrize(
    ("executor", "memory_mb"),
    [("native", 8), ("native", 1), pytest.param("torch", 8, marks=pytest.mark.slow)],
)
def test_a_mixed_batch_equals_merged_weights(executor, memory_mb):
    """Sixteen adapters of ranks 1 to 64 and four bases, ragged prompts, 64 greedy steps. With 1 MB
    (128 pages; the adapters alone take 340) they take turns."""
    adapters = [adapter(index) for index in range(len(RANKS))]
    whose = [*range(len(RANKS)), None, None, None, None]
    requests = [
        GenerateRequest(
            tuple((7 * i + 13 * j) % 251 for j in range(3 + 5 * i)),
            SETTINGS,
            None if index is None else f"a{index}",
        )
        for i, index in enumerate(whose)
    ]
    outputs, logits, core = run(executor, requests, adapters, memory_mb)
    sizes = sum(core.placement.adapters.sizes.values())
    assert sizes > 300 and (core.placement.adapters.num_evicted > 0) == (memory_mb == 1)
    worst = 0.0
    for request, index, tokens, found in zip(requests, whose, outputs, logits):
        merged = TINY.weights if index is None else merge(TINY.weights, adapters[index])
        expected = oracle(merged, [*request.prompt, *tokens][:-1])
        worst = max(worst, float(np.abs(found - expected).max()))
        start = len(request.prompt) - 1
        assert tuple(expected[start:].argmax(1)) == tokens
        if index is not None:  # it would have been seen
            base = oracle(TINY.weights, [*request.prompt, *tokens][:-1])
            assert np.abs(found - base).max() > 0.01
    assert worst <= 1e-4
