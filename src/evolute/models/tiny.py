"""A very small random model with a byte tokenizer, for tests and first steps."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from evolute.models.chat_template import CHATML
from evolute.models.config import ModelConfig
from evolute.models.decoder import Decoder
from evolute.models.token_bytes import byte_alphabet
from evolute.models.tokenizer import ChatTokenizer
from evolute.models.weights import ModelWeights

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONFIG = ModelConfig(
    architecture="llama",
    vocab_size=256 + len(SPECIAL),
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_width=16,
    ff_width=128,
    context=4096,
    tie_embeddings=True,
    bos_token_id=256,
    eos_token_ids=(258,),
)


def tiny_weights(config: ModelConfig = CONFIG, seed: int = 0, spread: float = 0.3) -> ModelWeights:
    """Random weights; norms are near one, so that activations stay sane."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in Decoder(config).named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = name.endswith("norm.weight")
        width = parameter.shape[-1]
        tensors[name] = 1 + 0.1 * noise if norm else noise * (spread * 4 / width**0.5)
    return ModelWeights(tensors)


def tiny_tokenizer() -> ChatTokenizer:
    """256 bytes and three control tokens; ChatML."""
    vocab = {char: byte for byte, char in byte_alphabet().items()}
    vocab |= {text: 256 + i for i, text in enumerate(SPECIAL)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return ChatTokenizer(tokenizer, eos_token_id=258, template=CHATML)
