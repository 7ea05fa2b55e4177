"""What does an answer leave in the prompt, and what is told of it?

    await pieces_of(output, backend)      its tokens, as far as they are its text
    await written(output, backend)        all that it made, its calls too
    await meta_of(reply, index, ...)      SGLang's meta_info of one output

The tokens that end an answer are cut off (`lang/cutting.py`). Where a stop string begins within a
token, that token's text is kept as text.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from evolute.lang.backend import Made, Piece, Reply, Text, TextBackend
from evolute.lang.cutting import candidates
from evolute.types import FinishReason, Output


async def pieces_of(output: Output, backend: TextBackend) -> tuple[Piece, ...]:
    text, ids = output.text, output.token_ids
    if not ids or not text or not backend.capabilities.tokens:
        return (Text(text),)
    count, length = output.text_prefix or await _prefix(output, backend)
    if not count:
        return (Text(text),)
    made = Made(text[:length], ids[:count])
    return (made,) if length == len(text) else (made, Text(text[length:]))


async def written(output: Output, backend: TextBackend) -> tuple[Piece, ...]:
    """Where calls stand in the text, that is more than `output.text`."""
    ids = output.token_ids
    if not backend.capabilities.tokens or not ids:
        return (Text(output.text),)
    if output.finish_reason is FinishReason.STOP and not isinstance(output.matched_stop, str):
        ids = ids[:-1]
    return (Made(await backend.decode(ids), ids),)


async def meta_of(
    reply: Reply, index: int, backend: TextBackend, wants_logprobs: bool, *, with_text: bool
) -> dict[str, Any]:
    """`completion_tokens` is exact where tokens are told, or the reply has one output."""
    output = reply.outputs[index]
    count = len(output.token_ids)
    if not count and len(reply.outputs) == 1:
        count = reply.spent.output_tokens
    meta: dict[str, Any] = {
        "id": output.request_id,
        "finish_reason": _finish(output, count),
        "prompt_tokens": output.prompt_tokens or reply.spent.prompt_tokens,
        "completion_tokens": count,
        "cached_tokens": output.cached_tokens,
        "weight_version": output.weight_version,
    }
    if reply.tool_calls:
        meta["tool_calls"] = [_call(one) for one in reply.tool_calls[index]]
    texts: Sequence[str | None] = [None] * len(output.token_ids)
    if with_text and backend.capabilities.tokens:
        texts = await asyncio.gather(*(backend.decode([id]) for id in output.token_ids))
    if wants_logprobs:
        meta["output_token_logprobs"] = token_entries(output.token_ids, output.logprobs, texts)
    if output.top_logprobs:
        meta["output_top_logprobs"] = [
            [[one.logprob, one.token_id, None] for one in row] for row in output.top_logprobs
        ]
    if output.prompt_logprobs:
        meta["input_token_logprobs"] = list(output.prompt_logprobs)
    return meta


def token_entries(
    token_ids: Sequence[int], logprobs: Sequence[float], texts: Sequence[str | None] = ()
) -> list[list[Any]]:
    """[log-probability, token id, its text or None] for each token; an endpoint that tells no
    ids has None there."""
    ids: Sequence[int | None] = token_ids or [None] * len(logprobs)
    told = [*texts, *([None] * (len(logprobs) - len(texts)))]
    return [[value, id, text] for value, id, text in zip(logprobs, ids, told)]


# -- internals ---------------------------------------------------------------


async def _prefix(output: Output, backend: TextBackend) -> tuple[int, int]:
    """As `cutting.text_prefix`, where the backend has not told it."""
    if output.finish_reason is FinishReason.LENGTH:
        return len(output.token_ids), len(output.text)
    for count in candidates(output):
        shown = await backend.decode(output.token_ids[:count])
        if shown and output.text.startswith(shown):
            return count, len(shown)
    return 0, 0


def _finish(output: Output, count: int) -> dict[str, Any]:
    if output.finish_reason is FinishReason.LENGTH:
        return {"type": "length", "length": count}
    if output.finish_reason is FinishReason.STOP:
        return {"type": "stop", "matched": output.matched_stop}
    return {"type": str(output.finish_reason)}


def _call(call: Any) -> dict[str, Any]:
    """As a chat template reads it: arguments are an object where they can be read."""
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
