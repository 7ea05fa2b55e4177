"""Text to token ids and back, and the model's own chat template.

ChatTokenizer.from_directory(path)   tokenizer.json, tokenizer_config.json, chat_template.jinja
ChatTokenizer.from_gguf(fields)      byte-level BPE out of GGUF metadata
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from evolute.models.safetensors_dir import read_json
from evolute.types import Message, ModelError, RequestError

logger = logging.getLogger(__name__)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<|end|>")
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


class ChatTokenizer:
    """A tokenizer with its chat template; implements `evolute.types.Tokenizer`."""

    def __init__(
        self, tokenizer: Tokenizer, *, eos_token_id: int, template: str | None, bos: str = ""
    ) -> None:
        self.tokenizers = tokenizer  # the Hugging Face object, for export and grammars
        self.eos_token_id = eos_token_id
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.template = template or CHATML
        if template is None:
            logger.warning("the model has no chat template; ChatML is used.")
        self._bos = bos
        self._compiled = _environment().from_string(self.template)
        ends = (tokenizer.token_to_id(text) for text in END_OF_TURN)
        self.stop_token_ids = frozenset({eos_token_id, *(id for id in ends if id is not None)})

    @classmethod
    def from_directory(cls, directory: Path) -> ChatTokenizer:
        """Raises ModelError when tokenizer.json is missing or damaged."""
        file = directory / "tokenizer.json"
        if not file.exists():
            raise ModelError(f"{directory} has no tokenizer.json; export it with the model.")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
        settings = directory / "tokenizer_config.json"
        values = read_json(settings) if settings.exists() else {}
        eos = tokenizer.token_to_id(_text(values.get("eos_token"))) if values else None
        if eos is None:
            eos = next(id for t in END_OF_TURN if (id := tokenizer.token_to_id(t)) is not None)
        template_file = directory / "chat_template.jinja"
        template = template_file.read_text() if template_file.exists() else None
        return cls(
            tokenizer,
            eos_token_id=eos,
            template=template or values.get("chat_template"),
            bos=_text(values.get("bos_token")),
        )

    @classmethod
    def from_gguf(cls, fields: Mapping[str, Any]) -> ChatTokenizer:
        """Raises ModelError unless the file holds a byte-level BPE tokenizer."""
        kind = fields.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise ModelError(
                f"the file's tokenizer is {kind!r}; only byte-level BPE ('gpt2') is read. "
                "Use the safetensors directory of the model instead."
            )
        tokens = fields["tokenizer.ggml.tokens"]
        bos = fields.get("tokenizer.ggml.bos_token_id")
        return cls(
            _byte_level_bpe(fields, tokens),
            eos_token_id=int(fields["tokenizer.ggml.eos_token_id"]),
            template=fields.get("tokenizer.chat_template"),
            bos="" if bos is None else tokens[bos],
        )

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self.tokenizers.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self.tokenizers.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; b'' for an id outside the vocabulary."""
        return self._bytes.get(token_id, b"")

    def chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn."""
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        if continue_final_message:
            text = self.render(messages, add_generation_prompt=False)
            last = messages[-1]["content"].strip()
            text = text[: text.rindex(last) + len(last)]
        return self.encode(text)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The conversation as the model's template writes it."""
        try:
            return self._compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._bos,
                eos_token=self.tokenizers.id_to_token(self.eos_token_id),
            )
        except (jinja2.TemplateError, KeyError, TypeError) as error:
            raise RequestError(
                f"the model's chat template refuses these messages: {error}"
            ) from error

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        alphabet = {char: byte for byte, char in byte_alphabet().items()}
        added = {id: str(t) for id, t in self.tokenizers.get_added_tokens_decoder().items()}
        vocab = self.tokenizers.get_vocab(with_added_tokens=True)
        table = {}
        for text, id in vocab.items():
            if id in added or any(char not in alphabet for char in text):
                table[id] = text.replace("\u2581", " ").encode()
            else:
                table[id] = bytes(alphabet[char] for char in text)
        return table


def byte_alphabet() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level BPE (GPT-2's table)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in kept}
    others = (byte for byte in range(256) if byte not in table)
    table |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    return table


# -- internals ---------------------------------------------------------------


def _text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else (token or "")


def _environment() -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = fail
    return environment


def _byte_level_bpe(fields: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(str(fields.get("tokenizer.ggml.pre", "default")))
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields.get("tokenizer.ggml.token_type", [])
    control = [tokens[id] for id, kind in enumerate(kinds) if kind == 3]
    own = [tokens[id] for id, kind in enumerate(kinds) if kind == 4]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in control])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in own])
    return tokenizer


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return pre_tokenizers.Sequence([digits, whole])
    splits = {"llama-bpe": LLAMA3_SPLIT, "qwen2": QWEN2_SPLIT}
    if name in splits:
        split = pre_tokenizers.Split(Regex(splits[name]), behavior="isolated")
        return pre_tokenizers.Sequence([split, byte_level])
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    raise ModelError(
        f"the file's pre-tokenizer is {name!r}; supported in GGUF are smollm, llama-bpe, qwen2 "
        "and gpt-2. Use the safetensors directory of the model instead."
    )
