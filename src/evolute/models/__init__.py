"""Network definitions and weights: one model for serving and for training."""

from evolute.models.config import ModelConfig
from evolute.models.decoder import (
    Attend,
    Decoder,
    Delta,
    attend_one,
    attention,
    causal_attention,
    rotary_table,
)
from evolute.models.export import export_model
from evolute.models.files.peft_dir import load_peft, save_peft
from evolute.models.files.safetensors_dir import parse_weights
from evolute.models.loading import SHORT_NAMES, LoadedModel, load_model
from evolute.models.lora import LoraConfig, LoraWeights, merge
from evolute.models.packed_lora import PackedLora, pack
from evolute.models.rope import RopeScaling
from evolute.models.weights import BlockQuantized, ModelWeights, fingerprint

__all__ = [
    "SHORT_NAMES",
    "Attend",
    "BlockQuantized",
    "Decoder",
    "Delta",
    "LoadedModel",
    "LoraConfig",
    "LoraWeights",
    "ModelConfig",
    "ModelWeights",
    "PackedLora",
    "RopeScaling",
    "attend_one",
    "attention",
    "causal_attention",
    "export_model",
    "fingerprint",
    "load_model",
    "load_peft",
    "merge",
    "pack",
    "parse_weights",
    "rotary_table",
    "save_peft",
]
