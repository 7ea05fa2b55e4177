"""How does a method put a question to a text backend of any kind?

prompt_of(backend, messages)                    rendered, as messages, or as plain text
await ask(backend, messages, sampling)          one text
await ask_json(backend, messages, schema, ...)  one object, constrained where that is possible
await log_likelihoods(backend, prompt, texts)   of each text's tokens after the prompt
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evolute.lang.backend import Prompt, Text, TextBackend, TextRequest
from evolute.types import Message, SamplingParams


async def prompt_of(backend: TextBackend, messages: Sequence[Message]) -> Prompt:
    """Messages as the prompt that this backend understands.

    Its own chat template where it renders, messages where it chats, else "role: content" lines.
    """
    can = backend.capabilities
    if can.renders:
        text = await backend.render(messages, add_generation_prompt=True)
        return Prompt((Text(text),), tuple(messages))
    if can.chats:
        return Prompt((), tuple(messages))
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return Prompt.of("\n\n".join([*lines, "Assistant:"]))


async def ask(
    backend: TextBackend, messages: Sequence[Message], sampling: SamplingParams, *, id: str = ""
) -> str:
    """The one answer. Settings that the backend cannot honour and that only steer chance (seed)
    are left out; all others raise NotSupported there."""
    prompt = await prompt_of(backend, messages)
    request = TextRequest(prompt, _seed_where_known(backend, sampling))
    reply = await backend.generate(replace(request, id=id) if id else request)
    return reply.outputs[0].text


async def ask_json(
    backend: TextBackend,
    messages: Sequence[Message],
    schema: Mapping[str, Any],
    sampling: SamplingParams,
) -> dict[str, Any] | None:
    """The object that was answered, None when it is none. Constrained by `schema` where the
    backend samples under one; elsewhere the schema stands in the question."""
    if is_honoured(backend, "json_schema"):
        sampling = replace(sampling, json_schema=json.dumps(schema))
    else:
        said = f"Answer with one JSON object only. Its schema: {json.dumps(schema)}"
        last = messages[-1]
        messages = [*messages[:-1], {**last, "content": f"{last['content']}\n\n{said}"}]
    text = await ask(backend, messages, sampling)
    return _object_in(text)


async def log_likelihoods(
    backend: TextBackend, prompt: Prompt, texts: Sequence[str]
) -> list[tuple[float, ...]]:
    """log p of the tokens of each text as the prompt's continuation, what all share aside (a merge
    over the boundary is part of both). Raises NotSupported where a backend tells no tokens."""
    prefix = await backend.encode(prompt)
    whole = [await backend.encode(prompt.then(Text(text))) for text in texts]
    shared = min(_common(prefix, ids) for ids in whole)
    scores, _ = await backend.score(prefix[:shared], [ids[shared:] for ids in whole])
    return scores


def is_honoured(backend: TextBackend, name: str) -> bool:
    """Whether the backend honours a field of SamplingParams."""
    known = backend.capabilities.sampling
    return known is None or name in known


# -- internals ---------------------------------------------------------------


def _seed_where_known(backend: TextBackend, sampling: SamplingParams) -> SamplingParams:
    return sampling if is_honoured(backend, "seed") else replace(sampling, seed=None)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = enumerate(zip(one, other))
    return next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))


def _object_in(text: str) -> dict[str, Any] | None:
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
