"""Network definitions and weights: one model for serving and for training.

What computes with torch is imported when it is first used: a server that decodes natively starts
without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evolute.models.config import ModelConfig
from evolute.models.files.peft_dir import load_peft, save_peft
from evolute.models.files.safetensors_dir import parse_weights
from evolute.models.loading import SHORT_NAMES, LoadedModel, load_model
from evolute.models.lora import LoraConfig, LoraWeights, merge
from evolute.models.packed_lora import PackedLora, pack
from evolute.models.rope import RopeScaling, rotary_table
from evolute.models.weights import BlockQuantized, ModelWeights, fingerprint

if TYPE_CHECKING:
    from evolute.models.decoder import (
        Attend,
        Decoder,
        Delta,
        attend_one,
        attention,
        causal_attention,
    )
    from evolute.models.export import export_model

DECODER = ("Attend", "Decoder", "Delta", "attend_one", "attention", "causal_attention")
ON_USE = {**dict.fromkeys(DECODER, "decoder"), "export_model": "export"}

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


def __getattr__(name: str) -> Any:
    if name in ON_USE:
        return getattr(import_module(f"evolute.models.{ON_USE[name]}"), name)
    raise AttributeError(f"module 'evolute.models' has no attribute {name!r}")
