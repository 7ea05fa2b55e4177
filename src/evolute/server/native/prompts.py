"""The prompts of one /generate body, each with all that belongs to it.

items(body, engine) -> [Item]     per-prompt lists taken apart; raises FieldError
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from evolute.server.bodies import MAX_CHOICES, check_text, check_token_ids
from evolute.server.errors import FieldError
from evolute.server.native.bodies import GenerateBody, Told, sampling
from evolute.types import Backend, GenerateRequest, SamplingParams

MAX_ID_CHARS = 256


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt: what is asked of the engine, and what the answer is to show."""

    request: GenerateRequest
    told: Told
    interval: int  # tokens between two events of a stream


def is_batch(body: GenerateBody) -> bool:
    """A list of prompts is answered by a list, also a list of one."""
    ids = body.input_ids
    return isinstance(body.text, list) or bool(ids and isinstance(ids[0], list))


def items(body: GenerateBody, engine: Backend) -> list[Item]:
    """`tenant` is left at its default. Raises FieldError and RequestError."""
    prompts = _prompts(body, engine)
    split = _Split(len(prompts), is_batch(body))
    ids = _request_ids(body.rid, len(prompts), split)
    found = []
    for i, prompt in enumerate(prompts):
        told = _told(body, split, i, len(prompt))
        values = split.one("sampling_params", body.sampling_params, i) or {}
        where = f"sampling_params[{i}]." if isinstance(body.sampling_params, list) else ""
        params, interval = sampling(values, told, where)
        request = GenerateRequest(
            tuple(prompt),
            params,
            split.one("lora_path", body.lora_path, i) or None,
            cache_salt=_salt(body, split, i),
            priority=body.priority or 0,
            deadline_s=body.deadline_s,
            id=ids[i],
        )
        found.append(Item(request, told, interval))
    _check_samples([item.request.sampling for item in found])
    return found


# -- internals ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Split:
    """Takes per-prompt values out of fields that hold one value or a list of them."""

    count: int
    is_batch: bool

    def one(self, name: str, value: Any, i: int) -> Any:
        if not isinstance(value, list):
            return value
        if len(value) != self.count:
            text = f"{name} has {len(value)} entries, but there are {self.count} prompts."
            raise FieldError(text, param=name)
        return value[i]

    def ids(self, value: Any, i: int) -> tuple[int, ...]:
        """Of `token_ids_logprob`, where one value is itself a list."""
        if value and not all(isinstance(one, int) for one in value):
            if not self.is_batch:
                text = "token_ids_logprob must be a flat list of integers for one prompt."
                raise FieldError(text, param="token_ids_logprob")
            value = self.one("token_ids_logprob", value, i)
        return tuple(value or ())


def _prompts(body: GenerateBody, engine: Backend) -> list[list[int]]:
    given = [one for one in (body.text, body.input_ids, body.input_pieces) if one is not None]
    if len(given) != 1:
        raise FieldError("send either text, input_ids or input_pieces.", param="text")
    if body.add_special_tokens is not None and body.input_pieces is None:
        text = "add_special_tokens is for input_pieces; leave it out."
        raise FieldError(text, param="add_special_tokens")
    if body.input_pieces is not None:
        return [_joined(body, engine)]
    prompts: Any = body.input_ids if body.text is None else body.text
    if not is_batch(body):
        prompts = [prompts]
    field, found = "input_ids" if body.text is None else "text", []
    tokenizer = engine.tokenizer
    if len(prompts) > MAX_CHOICES:
        text = f"{field} holds {len(prompts)} prompts; at most {MAX_CHOICES} are allowed."
        raise FieldError(text, param=field)
    for prompt in prompts:
        if isinstance(prompt, str):
            check_text(prompt, engine)
            prompt = tokenizer.encode(prompt, add_special_tokens=True)
        else:
            check_token_ids(prompt, tokenizer.vocab_size, field)
        if not prompt:
            raise FieldError(f"{field} holds an empty prompt; send a token.", param=field)
        found.append(list(prompt))
    if not found:
        raise FieldError(f"{field} is an empty list; send at least one prompt.", param=field)
    return found


def _joined(body: GenerateBody, engine: Backend) -> list[int]:
    """The tokens of one prompt in pieces."""
    found: list[int] = []
    for place, piece in enumerate(body.input_pieces or ()):
        if isinstance(piece, str):
            check_text(piece, engine)
            begins = place == 0 and body.add_special_tokens is not False
            found += engine.tokenizer.encode(piece, add_special_tokens=begins)
        else:
            check_token_ids(piece, engine.tokenizer.vocab_size, "input_pieces")
            found += piece
    if not found:
        raise FieldError("input_pieces hold no token; send at least one.", param="input_pieces")
    return found


def _request_ids(rid: str | list[str] | None, count: int, split: _Split) -> list[str]:
    if rid is None:
        return [uuid.uuid4().hex for _ in range(count)]
    if isinstance(rid, str):
        ids = [f"{rid}_{i}" for i in range(count)] if split.is_batch else [rid]
    else:
        ids = [split.one("rid", rid, i) for i in range(count)]
    if len(set(ids)) < len(ids):
        raise FieldError("rid names two prompts alike; ids must be unique.", param="rid")
    if not all(0 < len(id) <= MAX_ID_CHARS for id in ids):
        text = f"rid must have 1 to {MAX_ID_CHARS} characters."
        raise FieldError(text, param="rid")
    return ids


def _told(body: GenerateBody, split: _Split, i: int, size: int) -> Told:
    is_wanted = bool(split.one("return_logprob", body.return_logprob, i))
    start = split.one("logprob_start_len", body.logprob_start_len, i)
    top = split.one("top_logprobs_num", body.top_logprobs_num, i) or 0
    ids = split.ids(body.token_ids_logprob, i)
    start = -1 if start is None else start
    if not is_wanted:
        for name, is_set in (
            ("logprob_start_len", start >= 0),
            ("top_logprobs_num", bool(top)),
            ("token_ids_logprob", bool(ids)),
        ):
            if is_set:
                raise FieldError(f"{name} needs return_logprob=true.", param=name)
        return Told()
    if not -1 <= start <= size:
        text = f"logprob_start_len is {start}, but the prompt has {size} tokens; use -1 to {size}."
        raise FieldError(text, param="logprob_start_len")
    return Told(True, -1 if start == size else start, top, ids)


def _salt(body: GenerateBody, split: _Split, i: int) -> str:
    """Both fields keep caches apart; a salt alone is the one that /v1 knows."""
    salt = split.one("cache_salt", body.cache_salt, i) or ""
    extra = split.one("extra_key", body.extra_key, i) or ""
    return f"{salt}\0{extra}" if extra else str(salt)


def _check_samples(samplings: list[SamplingParams]) -> None:
    counts = {sampling.n for sampling in samplings}
    if len(counts) > 1:
        text = f"n differs between prompts ({sorted(counts)}); send them in calls of their own."
        raise FieldError(text, param="sampling_params")
    total = len(samplings) * counts.pop()
    if total > MAX_CHOICES:
        text = f"{total} outputs in one call; at most {MAX_CHOICES} are allowed."
        raise FieldError(text, param="sampling_params")
