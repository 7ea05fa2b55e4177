"""Text to token ids and back, with the model's own chat template.

ChatTokenizer.from_directory(path)   tokenizer.json, tokenizer_config.json, chat_template.jinja
ChatTokenizer.from_gguf(fields)      byte-level BPE out of GGUF metadata
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from evolute.models.chat_template import CHATML, ChatTemplate
from evolute.models.files.gguf_tokenizer import read_tokenizer
from evolute.models.files.json_files import read_json, read_text
from evolute.models.token_bytes import token_bytes
from evolute.types import Message, ModelError

logger = logging.getLogger(__name__)

END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>", "<|end|>")


class ChatTokenizer:
    """A tokenizer with its chat template; implements `evolute.types.Tokenizer`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_token_id: int,
        template: str | None,
        bos: str = "",
        more_stop_ids: Iterable[int] = (),
    ) -> None:
        """`bos` is the text of the first token, which templates may name."""
        if template is None:
            logger.warning("the model has no chat template; ChatML is used.")
        self.tokenizers = tokenizer  # the Hugging Face object, for export and grammars
        self.eos_token_id = eos_token_id
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos, self.eos = bos, str(tokenizer.id_to_token(eos_token_id) or "")
        self.template = ChatTemplate(template or CHATML, bos=bos, eos=self.eos)
        self.stop_token_ids = frozenset({eos_token_id, *more_stop_ids, *_end_of_turn(tokenizer)})

    @classmethod
    def from_directory(cls, directory: Path, eos_token_ids: Sequence[int] = ()) -> ChatTokenizer:
        """`eos_token_ids` are those of the model's configs. Raises ModelError for bad files."""
        file = directory / "tokenizer.json"
        if not file.exists():
            raise ModelError(f"{directory} has no tokenizer.json; export it with the model.")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the tokenizers package raises plain exceptions
            raise ModelError(f"{file} cannot be read: {error}. Fetch it again.") from error
        settings = directory / "tokenizer_config.json"
        values = read_json(settings) if settings.exists() else {}
        named = tokenizer.token_to_id(_text(values.get("eos_token")))
        ends = [*([] if named is None else [named]), *eos_token_ids, *_end_of_turn(tokenizer)]
        if not ends:
            raise ModelError(
                f"{directory} names no end-of-sequence token; set eos_token in "
                "tokenizer_config.json."
            )
        return cls(
            tokenizer,
            eos_token_id=ends[0],
            template=_template(directory, values),
            bos=_text(values.get("bos_token")),
            more_stop_ids=eos_token_ids,
        )

    @classmethod
    def from_gguf(
        cls, fields: Mapping[str, Any], eos_token_ids: Sequence[int] = ()
    ) -> ChatTokenizer:
        """Raises ModelError unless the file holds a byte-level BPE tokenizer."""
        tokenizer, bos = read_tokenizer(fields), fields.get("tokenizer.ggml.bos_token_id")
        ends = [*eos_token_ids, *_end_of_turn(tokenizer)]
        if not ends:
            raise ModelError("the file names no end-of-sequence token; convert it again.")
        return cls(
            tokenizer,
            eos_token_id=ends[0],
            template=fields.get("tokenizer.chat_template"),
            bos="" if bos is None else str(tokenizer.id_to_token(bos) or ""),
            more_stop_ids=eos_token_ids,
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
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn, or within the last one.

        `tools` and `variables` are for templates that read them: see `template_variables`.
        """
        if continue_final_message:
            return self.encode(self.template.open(messages, tools=tools, variables=variables))
        return self.encode(
            self.template.render(
                messages,
                add_generation_prompt=add_generation_prompt,
                tools=tools,
                variables=variables,
            )
        )

    @property
    def template_variables(self) -> frozenset[str]:
        """Names that the chat template reads."""
        return self.template.variables

    @cached_property
    def max_token_bytes(self) -> int | None:
        """The most bytes of text that one token stands for; None when text is rewritten first."""
        if self.tokenizers.normalizer is not None:
            return None
        return max(map(len, self._bytes.values()))

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        return token_bytes(self.tokenizers)


# -- internals ---------------------------------------------------------------


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _end_of_turn(tokenizer: Tokenizer) -> list[int]:
    """Control tokens that end a turn by their name; a word of the vocabulary is none."""
    added = tokenizer.get_added_tokens_decoder()
    id_by_text = {str(token): id for id, token in added.items() if token.special}
    return [id_by_text[text] for text in END_OF_TURN if text in id_by_text]


def _template(directory: Path, values: Mapping[str, Any]) -> str | None:
    """The file of its own, or the settings' text; of several named ones the default."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return read_text(file)
    template = values.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default", ...)
    if not isinstance(template, str | None):
        raise ModelError(
            f"{directory / 'tokenizer_config.json'} has no chat template of name 'default'; name "
            "the one to use so, or write it to chat_template.jinja."
        )
    return template
