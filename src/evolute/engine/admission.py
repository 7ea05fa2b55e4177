"""May this request enter the engine? Everything that a caller can get wrong is refused here.

    check_request(request, settings, ...) -> tokens it may make at most

What passes cannot fail inside a step for a reason of its own.
"""

from __future__ import annotations

import math

from evolute.engine.config import Resolved
from evolute.engine.stop_regex import compile_regexes
from evolute.types import GenerateRequest, OutOfCapacity, PromptTooLong, RequestError
from evolute.types.request import MAX_DEADLINE_S

MAX_PRIORITY = 2**31
MAX_BIAS = 1e9  # what float32 logits still hold when divided by the lowest temperature


def check_request(
    request: GenerateRequest,
    settings: Resolved,
    vocab_size: int,
    num_waiting: int,
    adapter_pages: int = 0,
) -> int:
    """Raises RequestError, PromptTooLong or OutOfCapacity. The request's adapter takes
    `adapter_pages` of the memory."""
    _check_token_ids("prompt", request.prompt, vocab_size)
    _check_token_ids("stop_token_ids", request.sampling.stop_token_ids, vocab_size)
    _check_token_ids("logprob_token_ids", request.sampling.logprob_token_ids, vocab_size)
    _check_bias(request, vocab_size)
    _check_prompt_logprobs(request)
    compile_regexes(request.sampling.stop_regex)
    if abs(request.priority) > MAX_PRIORITY:
        raise RequestError(f"priority must lie within {MAX_PRIORITY} of 0.")
    if request.deadline_s is not None and not 0 <= request.deadline_s <= MAX_DEADLINE_S:
        raise RequestError(
            f"deadline_s is {request.deadline_s}; it must lie in [0, {MAX_DEADLINE_S:g}] seconds."
        )
    if request.priority and settings.config.policy != "priority":
        raise RequestError(
            f"priority is {request.priority}, but engine.policy is {settings.config.policy!r}, "
            "which knows none; leave it out, or serve with engine.policy=priority."
        )
    slots = _slots(request, settings, adapter_pages)
    _check_room(request.sampling.n, settings.config.max_waiting, num_waiting)
    return min(request.sampling.max_new_tokens, slots - len(request.prompt))


# -- internals ---------------------------------------------------------------


def _check_token_ids(name: str, token_ids: tuple[int, ...], vocab_size: int) -> None:
    if name == "prompt" and not token_ids:
        raise RequestError("the prompt is empty; it must hold at least one token.")
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        bad = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise RequestError(
            f"token id {bad} in {name} is out of vocabulary; ids run to {vocab_size - 1}."
        )


def _check_prompt_logprobs(request: GenerateRequest) -> None:
    first, size = request.sampling.prompt_logprobs_from, len(request.prompt)
    if first >= size:
        raise RequestError(
            f"log-probabilities of the prompt are wanted from token {first}, but it has {size}; "
            f"use at most {size - 1}."
        )


def _check_bias(request: GenerateRequest, vocab_size: int) -> None:
    for token, bias in request.sampling.logit_bias.items():
        if not 0 <= int(token) < vocab_size:
            raise RequestError(
                f"token id {token} in logit_bias is out of vocabulary; ids run to {vocab_size - 1}."
            )
        if bias != -math.inf and not abs(bias) <= MAX_BIAS:  # `not <=` also catches NaN
            raise RequestError(
                f"logit_bias of token {token} is {bias}; use a finite number up to {MAX_BIAS:g}, "
                "or -inf to bar it."
            )


def _slots(request: GenerateRequest, settings: Resolved, adapter_pages: int) -> int:
    """Tokens that one request may have, beside its adapter."""
    config, size = settings.config, len(request.prompt)
    slots = min(config.context, (settings.num_pages - adapter_pages) * config.page_size)
    if size + min(request.sampling.max_new_tokens, 1) > slots:
        what = "the model's context" if slots == config.context else "engine.memory_mb"
        what += " beside the adapter" if adapter_pages and slots < config.context else ""
        raise PromptTooLong(
            f"the prompt has {size} tokens and asks for {request.sampling.max_new_tokens} more, "
            f"but {what} holds {slots}. Shorten the prompt or raise that setting."
        )
    return slots


def _check_room(num_samples: int, max_waiting: int, num_waiting: int) -> None:
    if num_samples > max_waiting:
        raise RequestError(
            f"n is {num_samples}, but engine.max_waiting = {max_waiting} outputs may wait; ask "
            "for fewer or raise that setting."
        )
    if num_waiting + num_samples > max_waiting:
        raise OutOfCapacity(
            f"the waiting queue is full ({num_waiting} of engine.max_waiting = {max_waiting}); "
            "try again later."
        )
