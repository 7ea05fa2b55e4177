"""Our network against transformers and peft: the same weights give the same logits."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file

from evolute.models import (
    Decoder,
    LoadedModel,
    LoraConfig,
    LoraWeights,
    ModelConfig,
    ModelWeights,
    RopeScaling,
    causal_attention,
    export_model,
    load_model,
    load_peft,
    merge,
    rotary_table,
    save_peft,
)
from evolute.models.config import tensor_shapes
from evolute.models.files.config_json import from_hugging_face, to_hugging_face
from evolute.models.tiny import CONFIG, tiny_tokenizer, tiny_weights

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # noqa: E402

YARN = RopeScaling("yarn", 4.0, original_context=64, attention_factor=0.1 * math.log(4) + 1)
VARIANTS = {
    "llama": {},
    "llama-untied": {"tie_embeddings": False},
    "llama-one-kv-head": {"num_kv_heads": 1},
    "llama-biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "llama3-rope": {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)},
    "linear-rope": {"rope_scaling": RopeScaling("linear", 4.0)},
    "dynamic-rope": {"rope_scaling": RopeScaling("dynamic", 4.0)},
    "yarn-rope": {"rope_scaling": YARN},
    "yarn-rope-untruncated": {
        "rope_scaling": dataclasses.replace(YARN, beta_fast=8.0, beta_slow=2.0, truncate=False)
    },
    "table-rope": {
        "rope_scaling": RopeScaling("table", table=(1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0))
    },
    "mistral": {"architecture": "mistral"},
    "mistral-window": {"architecture": "mistral", "sliding_window": 9, "tie_embeddings": False},
    "qwen2": {"architecture": "qwen2", "qkv_bias": True},
    "qwen2-window": {"architecture": "qwen2", "qkv_bias": True, "sliding_window": 9},
    "qwen2-untied": {"architecture": "qwen2", "qkv_bias": True, "tie_embeddings": False},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_width": 32},
    "qwen3-biases": {
        "architecture": "qwen3",
        "qk_norm": True,
        "qkv_bias": True,
        "output_bias": True,
        "tie_embeddings": False,
    },
}
SAME_AS_LLAMA = ("llama", "mistral", "dynamic-rope")  # the last within its context
IDS = [(7 * i) % 250 for i in range(200)]


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
    return peer_of(directory)


def peer_of(directory):
    """transformers' model, each of whose tensors came from the files."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_transformers(name, tmp_path):
    config = config_of(name)
    weights = tiny_weights(config)
    with torch.inference_mode():
        expected = theirs(config, weights, tmp_path / "m")(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours(config, weights, IDS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n not in SAME_AS_LLAMA])
def test_each_variant_differs_from_plain_llama(name):
    """Else the test above would not see a switch that does nothing."""
    config, plain = config_of(name), config_of("llama")
    logits = ours(config, tiny_weights(config), IDS)
    assert (logits - ours(plain, tiny_weights(plain), IDS)).abs().max() > 0.1


@pytest.mark.parametrize("name", VARIANTS)
def test_a_config_is_read_back_from_config_json(name):
    assert from_hugging_face(to_hugging_face(config_of(name))) == config_of(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_tensors_of_a_config_are_those_of_the_network(name):
    decoder = Decoder(config_of(name))
    shapes = {name: tuple(p.shape) for name, p in decoder.named_parameters()}
    assert tensor_shapes(config_of(name)) == shapes


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "yarn"])
def test_angles_equal_those_of_transformers_far_out(kind):
    scalings = {
        "linear": RopeScaling("linear", 4.0),
        "dynamic": RopeScaling("dynamic", 4.0),
        "llama3": RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        "yarn": dataclasses.replace(YARN, original_context=32768),
    }
    config = dataclasses.replace(
        config_of("llama"), context=131072, head_width=128, rope_scaling=scalings[kind]
    )
    rotary = LlamaRotaryEmbedding(transformers.LlamaConfig(**to_hugging_face(config)))
    cos, sin = rotary(torch.zeros(1), torch.arange(131072)[None])
    expected = torch.cat([cos[0, :, :64], sin[0, :, :64]], -1)
    torch.testing.assert_close(torch.from_numpy(rotary_table(config)), expected, atol=1e-6, rtol=0)


SAVED = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 9},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 0},
    "qwen3": {"head_dim": 24, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_model_saved_by_transformers_is_loaded(kind, tmp_path):
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 259}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes, **SAVED[kind], eos_token_id=258)
    peer = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in peer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    peer.save_pretrained(tmp_path, max_shard_size="100KB")
    tiny_tokenizer().tokenizers.save(str(tmp_path / "tokenizer.json"))
    model = load_model(str(tmp_path))
    with torch.inference_mode():
        expected = peer(torch.tensor([IDS])).logits[0]
    got = ours(model.config, model.weights, IDS)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    assert model.tokenizer.eos_token_id == 258


def random_adapter(config, **options):
    lora = LoraWeights.init(LoraConfig(rank=4, alpha=6.0, **options), config)
    for _, b in lora.tensors.values():
        b.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return lora


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"targets": ("q_proj", "up_proj")}])
def test_peft_loads_an_adapter_of_ours(options, tmp_path):
    config = config_of("llama")
    weights, lora = tiny_weights(config), random_adapter(config_of("llama"), **options)
    save_peft(lora, tmp_path / "a", "base")
    base = theirs(config, weights, tmp_path / "m")
    with torch.inference_mode():
        plain = base(torch.tensor([IDS])).logits[0]
        model = peft.PeftModel.from_pretrained(base, tmp_path / "a")
        expected = model(torch.tensor([IDS])).logits[0]
    got = ours(config, weights, IDS, load_peft(tmp_path / "a").delta)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert (plain - expected).abs().max() > 0.1
    assert load_peft(tmp_path / "a").fingerprint() == lora.fingerprint()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}])
def test_we_load_an_adapter_of_peft(options, tmp_path):
    config = config_of("qwen2")
    weights = tiny_weights(config)
    settings = peft.LoraConfig(
        r=3, lora_alpha=7, target_modules=["q_proj", "o_proj", "down_proj"], **options
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(theirs(config, weights, tmp_path / "m"), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([IDS])).logits[0]
    model.save_pretrained(tmp_path / "a")
    got = ours(config, weights, IDS, load_peft(tmp_path / "a").delta)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert (got - ours(config, weights, IDS)).abs().max() > 0.1


def test_merging_equals_the_adapter_beside_the_weights():
    config = config_of("llama")
    weights, lora = tiny_weights(config), random_adapter(config_of("llama"))
    merged = merge(weights, lora)
    got, expected = ours(config, merged, IDS), ours(config, weights, IDS, lora.delta)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    a, b = lora.tensors[1, "v_proj"]
    name = "layers.1.self_attn.v_proj.weight"
    exact = weights.dense(name).double() + lora.scale * (b.double() @ a.double())
    assert torch.equal(merged.dense(name), exact.float())
    assert torch.equal(merged.dense("norm.weight"), weights.dense("norm.weight"))


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        ("llama-untied", {}, "float32"),
        ("qwen3", {"max_shard_bytes": 100_000}, "float32"),
        ("table-rope", {}, "float32"),
        ("mistral-window", {}, "bfloat16"),
    ],
)
def test_an_exported_model_is_the_same_in_transformers_and_here(name, options, dtype, tmp_path):
    config = config_of(name)
    model = LoadedModel("m", config, tiny_weights(config), tiny_tokenizer())
    lora = random_adapter(config)
    export_model(model, tmp_path / "m", lora, dtype=dtype, **options)
    again = load_model(str(tmp_path / "m"))
    ends = {"eos_token_ids": again.config.eos_token_ids}
    assert dataclasses.replace(config, **ends) == again.config
    assert set(again.config.eos_token_ids) == model.tokenizer.stop_token_ids
    assert again.tokenizer.stop_token_ids == model.tokenizer.stop_token_ids
    merged = merge(model.weights, lora)
    expected = {n: merged.dense(n).to(getattr(torch, dtype)).float() for n in merged}
    assert again.weights.fingerprint() == ModelWeights(expected).fingerprint()
    assert len(list((tmp_path / "m").glob("*.safetensors"))) == (5 if options else 1)
    peer = peer_of(tmp_path / "m")
    with torch.inference_mode():
        logits = peer(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(ours(config, again.weights, IDS), logits, atol=1e-4, rtol=1e-4)
    assert set(peer.generation_config.eos_token_id) == model.tokenizer.stop_token_ids


def test_an_exported_tokenizer_is_the_same_in_transformers(tmp_path):
    tokenizer = load_model("smollm2-135m").tokenizer
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)
    export_model(LoadedModel("m", config, tiny_weights(config), tokenizer), tmp_path / "m")
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    again = load_model(str(tmp_path / "m")).tokenizer
    texts = ["", " a", "in 2024:  3.14\n\n\tx", "naïve 東京 🙂", "<|im_start|>user\n<|im_end|>\n"]
    for text in [*texts, "The history of 1000 lighthouses.\n" * 20]:
        ids = peer.encode(text)
        assert ids == tokenizer.encode(text) == again.encode(text)
        assert peer.decode(ids, skip_special_tokens=True) == again.decode(ids)
    turns = [{"role": "user", "content": "Hi "}, {"role": "assistant", "content": "Well, "}]
    for options in ({"add_generation_prompt": True}, {"continue_final_message": True}):
        expected = peer.apply_chat_template(turns, **options)["input_ids"]
        assert expected == tokenizer.chat(turns, **options) == again.chat(turns, **options)
    assert peer.eos_token_id == again.eos_token_id == tokenizer.eos_token_id
