"""How a model is told of a conversation and of its tools.

    await prompt_of(conversation, engine)      its token ids, a long text's beside the event loop
    token_ids(conversation, tokenizer)

A template that reads `tools` gets them; for any other they are written into the text of the
messages (`lang/tools/told.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.lang.tools import Toolset, in_text
from evolute.server.bodies import check_text
from evolute.server.encoding import encoded
from evolute.server.errors import FieldError, not_supported
from evolute.types import Backend, Message, Tokenizer
from evolute.types.settings import nearest

RESERVED = {"messages", "tools", "add_generation_prompt", "documents", "bos_token", "eos_token"}


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: Sequence[Message]
    toolset: Toolset = field(default_factory=Toolset)
    add_generation_prompt: bool = True
    is_open: bool = False  # the last message is not finished
    variables: Mapping[str, Any] = field(default_factory=dict)  # for the template


async def prompt_of(conversation: Conversation, engine: Backend) -> list[int]:
    """Raises FieldError for what the template cannot do, PromptTooLong for what is never short."""
    texts = [message["content"] for message in conversation.messages]
    for text in texts:
        check_text(text, engine)
    offered = [tool.as_json() for tool in conversation.toolset.offered]
    size = [conversation.messages, offered, conversation.variables]
    return await encoded(size, token_ids, conversation, engine.tokenizer)


def token_ids(conversation: Conversation, tokenizer: Tokenizer) -> list[int]:
    """Raises FieldError for what this model's template cannot do."""
    reads: frozenset[str] = getattr(tokenizer, "template_variables", frozenset())
    messages, tools = conversation.messages, conversation.toolset.offered
    options: dict[str, Any] = {}
    if "tools" not in reads:
        messages = in_text(messages, conversation.toolset)
    elif tools:
        options["tools"] = [tool.as_json() for tool in tools]
    if conversation.variables:
        options["variables"] = _variables(conversation.variables, reads)
    if conversation.is_open:
        _refuse_unless_open(tokenizer)
        options["continue_final_message"] = True
    else:
        options["add_generation_prompt"] = conversation.add_generation_prompt
    return tokenizer.chat(messages, **options)


# -- internals ---------------------------------------------------------------


def _refuse_unless_open(tokenizer: Tokenizer) -> None:
    chat: Any = tokenizer.chat  # not every tokenizer can leave a turn open
    if "continue_final_message" not in inspect.signature(chat).parameters:
        raise not_supported("continue_final_message", "this model's template cannot do it.")


def _variables(given: Mapping[str, Any], reads: frozenset[str]) -> Mapping[str, Any]:
    for name in given:
        if name in RESERVED or name not in reads:
            known = sorted(reads - RESERVED)
            text = f"the model's chat template takes no {name!r}. "
            text += nearest(name, known) if known else "It takes none at all."
            raise FieldError(text, param="chat_template_kwargs")
    return given
