"""Our network against transformers and peft: the same weights give the same logits."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from evolute.models import (
    Decoder,
    LoraConfig,
    LoraWeights,
    ModelConfig,
    ModelWeights,
    RopeScaling,
    causal_attention,
    load_model,
    load_peft,
    save_peft,
)
from evolute.models.files.config_json import to_hugging_face
from evolute.models.tiny import CONFIG, tiny_weights

transformers = pytest.importorskip("transformers")

VARIANTS = {
    "llama": {},
    "llama-untied": {"tie_embeddings": False},
    "llama-gqa1": {"num_kv_heads": 4},
    "llama3-rope": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
    "linear-rope": {"rope_scaling": RopeScaling("linear", 4.0)},
    "mistral": {"architecture": "mistral", "sliding_window": 9},
    "qwen2": {"architecture": "qwen2", "qkv_bias": True},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_width": 32},
}


def config_of(name: str) -> ModelConfig:
    return dataclasses.replace(CONFIG, norm_eps=1e-6, context=256, **VARIANTS[name])


def ours(config, weights, ids, delta=None):
    decoder = Decoder(config)
    decoder.load(weights)
    with torch.inference_mode():
        attend = causal_attention([len(ids)], config.sliding_window)
        hidden = decoder(torch.tensor(ids), torch.arange(len(ids)), attend, delta)
        return hidden @ decoder.head_weight.T


def theirs(config, weights, directory):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(to_hugging_face(config)))
    tensors = {
        name if name == "lm_head.weight" else f"model.{name}": weights.dense(name).clone()
        for name in weights
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name, tmp_path):
    config = config_of(name)
    weights = tiny_weights(config)
    ids = [(7 * i) % 250 for i in range(50)]
    with torch.inference_mode():
        expected = theirs(config, weights, tmp_path / "m")(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(ours(config, weights, ids), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_equals_peft_both_ways(tmp_path):
    peft = pytest.importorskip("peft")
    config = config_of("llama")
    weights = tiny_weights(config)
    lora = LoraWeights.init(LoraConfig(rank=4, alpha=6.0), config)
    for _, b in lora.tensors.values():
        b.normal_(std=0.1)
    save_peft(lora, tmp_path / "a", "base")
    ids = list(range(40))
    model = peft.PeftModel.from_pretrained(theirs(config, weights, tmp_path / "m"), tmp_path / "a")
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    got = ours(config, weights, ids, load_peft(tmp_path / "a").delta)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert load_peft(tmp_path / "a").fingerprint() == lora.fingerprint()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_embedded_model_equals_transformers(tmp_path):
    model = load_model("smollm2-135m")
    dense = ModelWeights({name: model.weights.dense(name) for name in model.weights})
    peer = theirs(model.config, dense, tmp_path / "m")
    text = "The history of the lighthouse begins with a fire on a hill. " * 200
    ids = model.tokenizer.encode(text)[:2000]
    worst = 0.0
    for number in range(20):
        prompt = ids[number : number + max(1, 2000 * (number + 1) // 20)]
        with torch.inference_mode():
            expected = peer(torch.tensor([prompt])).logits[0]
        worst = max(worst, float((ours(model.config, dense, prompt) - expected).abs().max()))
    print(f"max abs difference over 20 prompts: {worst:.2e}")
    assert worst <= 2e-3
