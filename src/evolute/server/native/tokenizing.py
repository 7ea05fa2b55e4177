"""Texts to token ids and back.

    tokenize      {"prompt" | "messages"} -> {"tokens", "count", "max_model_len"[, "text"]}
    detokenize    {"tokens"} -> {"text"}

A list of prompts, or of token lists, is answered by lists.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evolute.lang.endpoints.tokens import rendered
from evolute.server import admin
from evolute.server.bodies import Many, Strict, check_token_ids
from evolute.server.encoding import encoded
from evolute.server.errors import FieldError
from evolute.server.native.bodies import read
from evolute.server.native.operations import Operations
from evolute.server.shapes import CHAT_TOOLS, PLAIN_MESSAGES
from evolute.types import Message, Tokenizer

MAX_SIZE = 1_000_000  # characters or ids of one call: longer ones would hold up everybody
ROLES = ("system", "user", "assistant", "tool")


class TokenizeBody(Strict):
    model: str = "default"
    prompt: str | Many[str] | None = None
    messages: PLAIN_MESSAGES | None = None
    add_special_tokens: bool | None = None  # those that the tokenizer adds by itself; default true
    add_generation_prompt: bool | None = None
    # ours: what the chat template makes of messages
    continue_final_message: bool | None = None  # up to the last character of the last one
    tools: CHAT_TOOLS | None = None
    return_text: bool | None = None


class DetokenizeBody(Strict):
    model: str = "default"
    tokens: Many[int] | Many[Many[int]]
    skip_special_tokens: bool | None = None


async def tokenize(request: Request, operations: Operations) -> Response:
    body = await read(request, TokenizeBody)
    await operations.names.resolve(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise FieldError("send either prompt or messages.", param="prompt")
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt or []
    _check_size("prompt", sum(map(len, texts)))
    tokens: Any = await encoded([texts, body.messages], _tokens, body, operations)
    count = [len(ids) for ids in tokens] if isinstance(body.prompt, list) else len(tokens)
    most = admin.context_of(operations.engine)
    answer = {"tokens": tokens, "count": count, "max_model_len": most}
    if body.return_text and body.messages is not None:
        tokenizer = operations.engine.tokenizer
        answer["text"] = await encoded(body.messages, _rendered, body, tokenizer)
    return JSONResponse(answer)


async def detokenize(request: Request, operations: Operations) -> Response:
    body = await read(request, DetokenizeBody)
    await operations.names.resolve(body.model)
    tokenizer, tokens = operations.engine.tokenizer, body.tokens
    is_batch = bool(tokens) and isinstance(tokens[0], list)
    lists: Many[Any] = list(tokens) if is_batch else [tokens]
    _check_size("tokens", sum(map(len, lists)))
    for ids in lists:
        check_token_ids(ids, tokenizer.vocab_size, "tokens")
    skip = body.skip_special_tokens is not False

    def decode() -> list[str]:
        return [tokenizer.decode(ids, skip_special_tokens=skip) for ids in lists]

    texts = await encoded(lists, decode)
    return JSONResponse({"text": texts if is_batch else texts[0]})


# -- internals ---------------------------------------------------------------


def _check_size(field: str, size: int) -> None:
    if size > MAX_SIZE:
        text = f"{field} has {size} entries or characters; send at most {MAX_SIZE} at once."
        raise FieldError(text, param=field)


def _tokens(body: TokenizeBody, operations: Operations) -> list[int] | list[list[int]]:
    tokenizer = operations.engine.tokenizer
    if body.messages is not None:
        given: dict[str, Any] = {"tools": body.tools} if body.tools else {}
        if body.continue_final_message:
            given["continue_final_message"] = True
        add = body.add_generation_prompt is not False
        return tokenizer.chat(_messages(body), add_generation_prompt=add, **given)
    special = body.add_special_tokens is not False
    if isinstance(body.prompt, list):
        return [tokenizer.encode(text, add_special_tokens=special) for text in body.prompt]
    return tokenizer.encode(body.prompt or "", add_special_tokens=special)


def _rendered(body: TokenizeBody, tokenizer: Tokenizer) -> str:
    return rendered(
        tokenizer,
        _messages(body),
        tools=body.tools or (),
        is_open=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )


def _messages(body: TokenizeBody) -> list[Message]:
    return [_message(message, i) for i, message in enumerate(body.messages or ())]


def _message(message: dict[str, Any], position: int) -> Message:
    where = f"messages[{position}]"
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str) or len(message) > 2:
        text = f"{where} must be an object of role ({', '.join(ROLES)}) and content, a text."
        raise FieldError(text, param=where)
    return Message(role=role, content=content)
