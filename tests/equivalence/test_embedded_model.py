"""The embedded model against transformers: each reads the same GGUF file by itself."""

from pathlib import Path

import pytest
import torch

from evolute.models import (
    Decoder,
    LoraConfig,
    LoraWeights,
    causal_attention,
    export_model,
    load_model,
    merge,
)
from evolute.models.loading import embedded_file

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(600)  # the peer parses the file for many seconds on a busy machine

TEXTS = {
    "prose": "The history of the lighthouse begins with a fire on a hill, {} years ago. ",
    "code": "def step_{0}(x):\n    return [x[i] * {0} for i in range(len(x))]\n\n",
    "digits": "{}: 3.14159 2,718 0x1F 1e-9 77 + 5 = 82; ",
    "unicode": "Größe {}, naïve café — 東京は夜の七時 🙂🙂 ",
}
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 64, 100, 150, 233, 377, 500, 610, 800, 987, 1300, 1597, 2000)
QUESTIONS = (
    "The capital of France is",
    "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
    "Once upon a time, in a village by the sea,",
    "Ein Haus am See und",
)


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2-135m")


@pytest.fixture(scope="module")
def ours(model):
    decoder = Decoder(model.config)
    decoder.load(model.weights)
    return decoder


@pytest.fixture(scope="module")
def peer():
    file = Path(embedded_file())
    network = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    network.generation_config.eos_token_id = None  # 64 tokens, whatever they are
    return network.eval()


def logits(decoder, ids):
    positions = torch.arange(len(ids))
    with torch.inference_mode():
        hidden = decoder(torch.tensor(ids), positions, causal_attention([len(ids)]))
        return hidden @ decoder.head_weight.T


def worst_difference(ours, peer, prompts):
    worst = 0.0
    for ids in prompts:
        with torch.inference_mode():
            expected = peer(torch.tensor([ids])).logits[0]
        worst = max(worst, float((logits(ours, ids) - expected).abs().max()))
    print(f"max abs difference over {len(prompts)} prompts: {worst:.2e}")
    return worst


def prompts(model, lengths):
    """One prompt of each length, each of another text."""
    texts = list(TEXTS.values())
    for number, length in enumerate(lengths):
        text = "".join(texts[number % len(texts)].format(n) for n in range(length))
        yield model.tokenizer.encode(text)[:length]


def greedy(decoder, ids, count):
    for _ in range(count):
        ids = [*ids, int(logits(decoder, ids)[-1].argmax())]
    return ids[-count:]


def greedy_of_peer(peer, ids, count):
    prompt = torch.tensor([ids])
    options = {"do_sample": False, "max_new_tokens": count, "pad_token_id": 2}
    with torch.inference_mode():  # without a mask, prompts that hold the padding id lose it
        whole = peer.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return whole[0, len(ids) :].tolist()


def test_short_prompts_give_the_logits_of_transformers(model, ours, peer):
    assert worst_difference(ours, peer, list(prompts(model, (1, 7, 60)))) <= 2e-3


def test_a_short_greedy_continuation_equals_that_of_transformers(model, ours, peer):
    ids = model.tokenizer.encode(QUESTIONS[0])
    assert greedy(ours, ids, 8) == greedy_of_peer(peer, ids, 8)


def test_weights_equal_those_of_transformers_to_the_bit(model, peer):
    expected = {k.removeprefix("model."): v for k, v in peer.state_dict().items()}
    assert set(model.weights) == expected.keys() - {"lm_head.weight"}
    assert all(torch.equal(model.weights.dense(name), expected[name]) for name in model.weights)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_prompts_give_the_logits_of_transformers(model, ours, peer):
    cases = list(prompts(model, LENGTHS))
    assert [len(ids) for ids in cases] == list(LENGTHS)
    assert worst_difference(ours, peer, cases) <= 2e-3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("text", QUESTIONS)
def test_64_greedy_tokens_equal_those_of_transformers(text, model, ours, peer):
    ids = model.tokenizer.encode(text)
    assert greedy(ours, ids, 64) == greedy_of_peer(peer, ids, 64)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_model_with_an_adapter_is_exported_to_transformers(model, ours, tmp_path):
    lora = LoraWeights.init(LoraConfig(rank=8), model.config)
    for _, b in lora.tensors.values():
        b.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    export_model(model, tmp_path / "m", lora, max_shard_bytes=200 << 20)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").eval()
    assert merged.dtype == torch.float32
    ids = next(iter(prompts(model, (500,))))
    with torch.inference_mode():
        expected = merged(torch.tensor([ids])).logits[0]
        hidden = ours(torch.tensor(ids), torch.arange(500), causal_attention([500]), lora.delta)
        got = hidden @ ours.head_weight.T
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)
    assert (got - logits(ours, ids)).abs().max() > 0.1
    assert load_model(str(tmp_path / "m")).weights.fingerprint() == (
        merge(model.weights, lora).fingerprint()
    )
