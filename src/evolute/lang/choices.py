"""Which of some texts is most probable after a prompt?

    token_length_normalized               highest mean log-probability of its tokens (the default)
    greedy_token_selection                token by token, the most probable survives
    unconditional_likelihood_normalized   highest mean gain over the same text without the prompt
    likelihood                            highest probability of the text itself
    await decide(backend, prompt, choices, method, temperature, seed) -> ChoicesDecision

A choice may merge with the prompt's last token. The prompt p and each whole text q are tokenised;
what they have in common is kept and the tokens behind it are scored, so a merged token is scored
as the model would see it. `likelihood` adds up two ways to write the text, merged and not. All
choices are scored after one shared prefix, which is computed once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evolute.lang.backend import Prompt, Text, TextBackend
from evolute.lang.echoes import score_alone, score_texts
from evolute.types import NotSupported

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One choice as tokens behind the shared prefix.

    `merged` is how the tokenizer writes prompt and choice together, `apart` how it writes each by
    itself; where nothing merges they are equal. The first `offset` tokens of `merged` are the
    prompt's own.
    """

    text: str
    merged: Ids
    apart: Ids
    offset: int

    @property
    def own(self) -> Ids:
        return self.merged[self.offset :]


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of one choice. `tokens` are those of `Candidate.own`."""

    tokens: tuple[float, ...]
    ways: tuple[float, ...]  # of all tokens behind the shared prefix, for each way to write it

    @property
    def mean(self) -> float:
        return sum(self.tokens) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class ChoicesDecision:
    """`decision` is one of the choices; `meta_info` says why."""

    decision: str
    meta_info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChoicesMethod:
    """`scores(candidates' scores, unconditional ones or ())` gives one number a choice, the
    highest wins; equal ones: the first."""

    name: str
    scores: Callable[[Sequence[Scored], Sequence[Sequence[float]]], Sequence[float]]
    needs_unconditional: bool = False


def normalized(scored: Sequence[Scored], _: Sequence[Sequence[float]]) -> Sequence[float]:
    return [one.mean for one in scored]


def greedy(scored: Sequence[Scored], _: Sequence[Sequence[float]]) -> Sequence[float]:
    """The mean for the one that survives, minus infinity for the others."""
    rows = greedy_matrix(scored)
    left = list(range(len(rows)))
    for column in range(len(rows[0])):
        best = max(rows[i][column] for i in left)
        left = [i for i in left if rows[i][column] == best]
    return [one.mean if i == left[0] else -math.inf for i, one in enumerate(scored)]


def gain(scored: Sequence[Scored], unconditional: Sequence[Sequence[float]]) -> Sequence[float]:
    """Mean over the tokens of log p(token | prompt) - log p(token | choice alone)."""
    pairs = zip(scored, unconditional)
    return [(sum(one.tokens) - sum(alone)) / len(one.tokens) for one, alone in pairs]


def total(scored: Sequence[Scored], _: Sequence[Sequence[float]]) -> Sequence[float]:
    return [log_sum(one.ways) for one in scored]


token_length_normalized = ChoicesMethod("token_length_normalized", normalized)
greedy_token_selection = ChoicesMethod("greedy_token_selection", greedy)
unconditional_likelihood_normalized = ChoicesMethod(
    "unconditional_likelihood_normalized", gain, needs_unconditional=True
)
likelihood = ChoicesMethod("likelihood", total)


async def decide(
    backend: TextBackend,
    prompt: Prompt,
    choices: Sequence[str],
    method: ChoicesMethod | None = None,
    temperature: float = 0.0,
    seed: int | None = None,
) -> ChoicesDecision:
    """At a temperature the choice is drawn by softmax(scores / temperature).

    Raises NotSupported where the backend tells no tokens or there is no prompt to score after.
    """
    method = method or token_length_normalized
    if backend.capabilities.tokens:
        base, candidates = await tokenised(backend, prompt, choices)
        scored = await score(backend, base, candidates)
        alone = await _unconditional(backend, candidates) if method.needs_unconditional else []
        meta = _meta_of_tokens(base, candidates, scored)
    elif backend.capabilities.echoes:
        scored, alone, meta = await _echoed(backend, prompt, choices, method)
    else:
        raise NotSupported(
            f"{backend.model_name} does not score tokens, which select needs; use an Engine, "
            "RuntimeEndpoint or OpenAI(is_chat_model=False), or gen with stop= and compare the "
            "text yourself."
        )
    scores = list(method.scores(scored, alone))
    shares = softmax(scores, 1.0)
    if temperature < 1e-6:
        chosen = scores.index(max(scores))
    else:
        weights = softmax(scores, temperature)
        chosen = random.Random(seed).choices(range(len(choices)), weights)[0]
    meta |= _meta(method, scored, scores)
    meta["probabilities"] = shares
    if method.needs_unconditional:
        meta["unconditional_token_logprobs"] = alone
        meta["normalized_unconditional_prompt_logprobs"] = [sum(a) / len(a) for a in alone]
    return ChoicesDecision(choices[chosen], meta)


async def tokenised(
    backend: TextBackend, prompt: Prompt, choices: Sequence[str]
) -> tuple[Ids, list[Candidate]]:
    """The tokens that all choices share, and the rest of each."""
    p = await backend.encode(prompt)
    if not p:
        raise NotSupported("select needs a prompt before it: nothing predicts the first token.")
    texts = [*(prompt.then(Text(choice)) for choice in choices), *map(prompt_of, choices)]
    encoded = await asyncio.gather(*map(backend.encode, texts))
    whole, lone = encoded[: len(choices)], encoded[len(choices) :]
    kept = [common(p, q) for q in whole]
    # a prompt whose only token merges leaves nothing to predict from: then nothing merges
    whole = [q if k else p + one for q, k, one in zip(whole, kept, lone)]
    kept = [k or len(p) for k in kept]
    shared = min(kept)
    return p[:shared], [
        Candidate(text, q[shared:], p[shared:] + one if k < len(p) else q[shared:], k - shared)
        for text, q, one, k in zip(choices, whole, lone, kept)
    ]


async def score(backend: TextBackend, base: Ids, candidates: Sequence[Candidate]) -> list[Scored]:
    """One pass over the prefix, then one over each way to write each choice."""
    ways = [way for one in candidates for way in (one.merged, one.apart)]
    logprobs, _ = await backend.score(base, ways)
    return [
        Scored(
            tuple(merged[one.offset :]),
            (sum(merged),) if one.merged == one.apart else (sum(merged), sum(apart)),
        )
        for one, merged, apart in zip(candidates, logprobs[::2], logprobs[1::2])
    ]


def greedy_matrix(scored: Sequence[Scored]) -> list[list[float]]:
    """Choice by position; a shorter one goes on with its own mean."""
    width = max(len(one.tokens) for one in scored)
    return [[*one.tokens, *[one.mean] * (width - len(one.tokens))] for one in scored]


def common(one: Ids, other: Ids) -> int:
    """Length of the longest common prefix."""
    pairs = zip(one, other)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def log_sum(values: Sequence[float]) -> float:
    """log(sum(exp)); minus infinity for nothing but those."""
    top = max(values)
    return top if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))


def softmax(scores: Sequence[float], temperature: float) -> list[float]:
    scaled = [value / temperature for value in scores]
    whole = log_sum(scaled)
    return [math.exp(value - whole) for value in scaled]


def prompt_of(choice: str) -> Prompt:
    """A text in the middle: no special tokens are put before it."""
    return Prompt(messages=({"role": "user", "content": ""},)).then(Text(choice))


# -- internals ---------------------------------------------------------------


async def _unconditional(
    backend: TextBackend, candidates: Sequence[Candidate]
) -> list[tuple[float, ...]]:
    """Each choice's own tokens with nothing before; the first, which nothing predicts, counts 0."""
    calls = (backend.score(one.own[:1], [one.own[1:]]) for one in candidates)
    return [(0.0, *scores[0]) for scores, _ in await asyncio.gather(*calls)]


async def _echoed(
    backend: Any, prompt: Prompt, choices: Sequence[str], method: ChoicesMethod
) -> tuple[list[Scored], list[tuple[float, ...]], dict[str, Any]]:
    """Without tokens a text has one way to be written, the endpoint's own."""
    if method is likelihood:
        raise NotSupported(
            f"{backend.model_name} tells no tokens, so a choice cannot be written in two ways; use "
            "another choices_method, or an Engine or RuntimeEndpoint."
        )
    told = await score_texts(backend, prompt.text, choices)
    alone = await score_alone(backend, choices) if method.needs_unconditional else []
    scored = [Scored(one.logprobs, (sum(one.logprobs),)) for one in told]
    meta = {
        "offsets": [one.offset for one in told],
        "input_token_logprobs": [
            [[value, None, text] for value, text in zip(one.logprobs, one.tokens)] for one in told
        ],
    }
    return scored, alone, meta


def _meta_of_tokens(
    base: Ids, candidates: Sequence[Candidate], scored: Sequence[Scored]
) -> dict[str, Any]:
    return {
        "token_ids": [list(one.own) for one in candidates],
        "offsets": [len(base) + one.offset for one in candidates],  # of their first tokens
        "likelihoods": list(total(scored, ())),
        "input_token_logprobs": [
            [[value, id, None] for value, id in zip(one.tokens, candidate.own)]
            for one, candidate in zip(scored, candidates)
        ],
    }


def _meta(
    method: ChoicesMethod, scored: Sequence[Scored], scores: Sequence[float]
) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "choices_method": method.name,
        "scores": list(scores),
        "normalized_prompt_logprobs": [one.mean for one in scored],
    }
    if method is greedy_token_selection:
        meta["greedy_logprob_matrix"] = greedy_matrix(scored)
    return meta
