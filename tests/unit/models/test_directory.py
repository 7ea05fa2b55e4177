"""Hugging Face directories: each key is read or refused, each fault names its fix."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from evolute.models import ModelConfig, RopeScaling, attention, load_model
from evolute.models.export import export_model
from evolute.models.files.config_json import from_hugging_face, to_hugging_face
from evolute.models.files.safetensors_dir import read_tensors
from evolute.models.tiny import CONFIG
from evolute.types import ConfigError, ModelError

VALUES = to_hugging_face(CONFIG)
QWEN = VALUES | {"model_type": "qwen2"}
WITHOUT_WINDOW = {key: value for key, value in VALUES.items() if key != "sliding_window"}
WINDOW = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "architecture is 'gpt2'; supported are llama"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many', expected a whole number"),
        ({"num_hidden_layers": 2.5}, "expected a whole number"),
        ({"rms_norm_eps": float("nan"), "num_attention_heads": float("inf")}, "whole number"),
        ({"num_hidden_layers": 0}, "must be at least 1"),
        ({"num_key_value_heads": 3}, "heads must be a multiple of kv heads"),
        ({"head_dim": 15}, "their width even"),
        ({"attention_bias": "yes"}, "expected true or false"),
        ({"eos_token_id": "</s>"}, "must be an id or a list of ids"),
        ({"hidden_act": "gelu"}, "'hidden_act' to 'gelu'; supported is silu"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' to 0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "'partial_rotary_factor' to 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, "unquantised weights"),
        ({"rope_parameters": {"rope_type": "su"}}, "rope scaling 'su' is not supported"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'linear' lacks 'factor'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one flat table"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "supported is one kind for all layers",
        ),
        ({"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({"layer_types": ["full_attention"]}, "one kind for each of the 2 layers"),
        ({"sliding_window": 8}, "LlamaForCausalLM"),
        (QWEN | WINDOW | {"max_window_layers": 1}, "supported is one kind for all layers"),
        (
            {"model_type": "mistral", "layer_types": ["full_attention"] * 2, "sliding_window": 8},
            "MistralForCausalLM",
        ),
    ],
)
def test_a_config_that_is_not_computed_here_is_refused(values, message):
    with pytest.raises(ModelError, match=message):
        from_hugging_face(VALUES | values)


@pytest.mark.parametrize(
    ("values", "window"),
    [
        (QWEN | WINDOW, 8),
        (QWEN | WINDOW | {"max_window_layers": 2}, None),
        (QWEN | {"sliding_window": 8, "use_sliding_window": False}, None),
        (QWEN | WINDOW | {"layer_types": ["full_attention"] * 2}, None),
        (VALUES | {"model_type": "mistral", "sliding_window": 8}, 8),
        (VALUES | {"model_type": "mistral", "sliding_window": None}, None),
        (
            {k: v for k, v in VALUES.items() if k != "sliding_window"} | {"model_type": "mistral"},
            4096,
        ),
    ],
)
def test_sliding_windows_are_those_of_transformers(values, window):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(**values)
    kinds = set(getattr(theirs, "layer_types", None) or ["sliding_attention"])
    assert (theirs.sliding_window if kinds == {"sliding_attention"} else None) == window
    assert from_hugging_face(values).sliding_window == window


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_keys_left_out_have_the_values_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    sizes = {"num_attention_heads": 32, "hidden_size": 128, "num_hidden_layers": 2}
    values = {"model_type": kind, "vocab_size": 9, "intermediate_size": 8} | sizes
    theirs, ours = transformers.AutoConfig.for_model(**values), from_hugging_face(values)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.context == theirs.max_position_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.head_width == (getattr(theirs, "head_dim", None) or 4)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.tie_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_rope_settings_are_read_in_both_spellings(key):
    values = {k: v for k, v in VALUES.items() if k != "rope_parameters"} | {
        "rope_theta": 500.0,
        key: {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    }
    config = from_hugging_face(values)
    sharpness = 0.1 * 1.3862943611198906 + 1
    assert config.rope_theta == 500.0
    assert config.rope_scaling == RopeScaling(
        "yarn", 4.0, original_context=64, attention_factor=sharpness
    )


def test_a_network_that_hugging_face_cannot_say_is_not_exported():
    config = ModelConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__slots__} | {"qkv_bias": True})
    with pytest.raises(ModelError, match="no switches for biases"):
        to_hugging_face(config)


@pytest.fixture
def directory(tmp_path):
    return export_model(load_model("tiny"), tmp_path / "m", max_shard_bytes=200_000)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_tensor(directory, name, tensor):
    tensors = read_tensors(directory / "model-00001-of-00002.safetensors")
    save_file(tensors | {name: tensor}, directory / "model-00001-of-00002.safetensors")


def embedding(directory):
    tensors = read_tensors(directory / "model-00001-of-00002.safetensors")
    return tensors["model.embed_tokens.weight"].clone()


INDEX, FIRST = "model.safetensors.index.json", "model-00001-of-00002.safetensors"
FAULTS = {
    "bias": (
        lambda d: add_tensor(d, "model.layers.0.self_attn.q_proj.bias", torch.zeros(64)),
        "has 1 tensors against its config.*q_proj.bias",
    ),
    "missing": (
        lambda d: change_json(d / "config.json", tie_word_embeddings=False),
        "lacks 1 tensors.*lm_head",
    ),
    "shape": (
        lambda d: change_json(d / "config.json", intermediate_size=64),
        r"is \(128, 64\), expected \(64, 64\)",
    ),
    "layers": (
        lambda d: change_json(d / "config.json", num_hidden_layers=10**9),
        "claims 1000000000 layers",
    ),
    "untied": (
        lambda d: add_tensor(d, "lm_head.weight", embedding(d) + 1),
        "Set tie_word_embeddings to false",
    ),
    "index": (lambda d: (d / INDEX).write_text("{}"), "has no weight_map"),
    "outside": (
        lambda d: (d / INDEX).write_text('{"weight_map": {"x": "../../x.safetensors"}}'),
        "files beside it",
    ),
    "no shard": (lambda d: (d / FIRST).unlink(), "damaged or missing"),
    "cut shard": (lambda d: os.truncate(d / FIRST, 1000), "damaged or missing"),
    "no weights": (lambda d: (d / INDEX).unlink(), "pickled weights"),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "generation": (
        lambda d: (d / "generation_config.json").write_text('{"eos_token_id": "x"}'),
        "must be an id or a list",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_directory_names_the_fix(fault, directory):
    damage, message = FAULTS[fault]
    load_model(str(directory))
    damage(directory)
    with pytest.raises(ModelError, match=message):
        load_model(str(directory))


def test_harmless_tensors_are_let_pass(directory):
    add_tensor(directory, "lm_head.weight", embedding(directory))
    add_tensor(directory, "model.layers.0.self_attn.rotary_emb.inv_freq", torch.zeros(8))
    assert load_model(str(directory)).weights.fingerprint() == (
        load_model("tiny").weights.fingerprint()
    )


def test_stop_ids_of_generation_config_are_read(directory):
    change_json(directory / "generation_config.json", eos_token_id=[5, 6])
    model = load_model(str(directory))
    assert {5, 6, 258} <= model.tokenizer.stop_token_ids
    assert model.config.eos_token_ids[:2] == (5, 6)


def test_an_export_replaces_nothing(directory):
    with pytest.raises(ConfigError, match="name a new or empty directory"):
        export_model(load_model("tiny"), directory)
    with pytest.raises(ConfigError, match="dtype 'int8' cannot be written; choose of float32"):
        export_model(load_model("tiny"), directory, dtype="int8")


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (1, 2, 2, 4)])
def test_masks_lie_where_the_queries_lie(shape):
    """The meta device stands for a GPU: tensors of two devices do not mix on it either."""
    q, k = torch.empty(shape, device="meta"), torch.empty(1, 2, 4, 4, device="meta")
    assert attention(q, k, k, sliding_window=2).device.type == "meta"


HUB = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from evolute.models import load_model
from evolute.types import ModelError
try:
    model = load_model(sys.argv[1])
    print(model.name, model.weights.fingerprint())
except ModelError as error:
    print(error)
"""


def hub(name, cache):
    environment = os.environ | {"HF_HUB_CACHE": str(cache)}
    run = subprocess.run(
        [sys.executable, "-c", HUB, name], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_hub_name_is_loaded_from_the_local_cache_only(directory, tmp_path):
    assert "Run `hf download some-org/model-1b`" in hub("some-org/model-1b", tmp_path)
    place = tmp_path / "models--some-org--model-1b"
    (place / "refs").mkdir(parents=True)
    (place / "snapshots").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    directory.rename(place / "snapshots" / ("0" * 40))
    found = hub("some-org/model-1b", tmp_path)
    assert found.split() == ["some-org/model-1b", load_model("tiny").weights.fingerprint()]
