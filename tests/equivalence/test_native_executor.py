"""The native step equals the plain one: every architecture, adapters, precision, key dtype."""

import dataclasses

import pytest
import torch

from evolute.engine import Engine
from evolute.models import LoadedModel, LoraConfig, LoraWeights, RopeScaling, load_model
from evolute.models.tiny import CONFIG, tiny_tokenizer, tiny_weights
from evolute.types import SamplingParams

pytest.importorskip("evolute.kernels._native", reason="the kernels are not built")

VARIANTS = {
    "llama": {},
    "untied": {"tie_embeddings": False},
    "one-kv-head": {"num_kv_heads": 1},
    "mha": {"num_kv_heads": 4},
    "linear-rope": {"rope_scaling": RopeScaling("linear", 4.0)},
    "mistral": {"architecture": "mistral", "sliding_window": 9},
    "qwen2": {"architecture": "qwen2", "qkv_bias": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_width": 32},
}
PROMPTS = [[(11 * i + j) % 250 for i in range(4 + 9 * j)] for j in range(6)]
SCORE = SamplingParams(max_new_tokens=4, temperature=0, prompt_logprobs=True, ignore_eos=True)


def scores(model, executor, lora=None, **settings):
    with Engine(model, executor=executor, page_size=4, memory_mb=8, **settings) as engine:
        if lora:
            engine.load_adapter("a", lora)
        outputs = engine.generate(PROMPTS, SCORE, adapter="a" if lora else None)
    return torch.tensor([x for o in outputs for x in (*o.prompt_logprobs[1:], *o.logprobs)])


@pytest.mark.parametrize("name", VARIANTS)
def test_logprobs_equal_the_plain_executor(name):
    config = dataclasses.replace(CONFIG, **VARIANTS[name])
    model = LoadedModel(name, config, tiny_weights(config), tiny_tokenizer())
    torch.testing.assert_close(
        scores(model, "native"), scores(model, "torch"), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("rank", [1, 5, 16])
def test_an_adapter_equals_the_plain_executor(rank):
    model = load_model("tiny")
    lora = LoraWeights.init(LoraConfig(rank=rank), model.config)
    for _, b in lora.tensors.values():
        b.normal_(std=0.1)
    native, plain = scores(model, "native", lora), scores(model, "torch", lora)
    torch.testing.assert_close(native, plain, atol=1e-4, rtol=1e-4)
    assert (native - scores(model, "native")).abs().max() > 0.01


def test_a_row_is_the_same_to_the_last_bit_in_any_batch():
    model = load_model("tiny")
    with Engine(model, executor="native", page_size=4, memory_mb=8) as engine:
        together = engine.generate(PROMPTS, SCORE)
        alone = [engine.generate([prompt], SCORE)[0] for prompt in PROMPTS]
    for one, two in zip(together, alone):
        assert one.prompt_logprobs == two.prompt_logprobs and one.logprobs == two.logprobs


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quantised_serving_stays_close_to_float32():
    model = load_model("smollm2-135m")
    text = "The capital of France is Paris, and the capital of Italy is Rome. Water boils at 100."
    ids = model.tokenizer.encode(text)
    found = []
    for precision in ("float32", "quantized"):
        with Engine(model, precision=precision, memory_mb=128) as engine:
            (output,) = engine.generate([ids], SCORE)
            found.append(torch.tensor(output.prompt_logprobs[1:]))
    difference = (found[0] - found[1]).abs().mean()
    print(f"mean |difference| of log-probabilities: {difference:.4f}")
    assert difference < 0.1
