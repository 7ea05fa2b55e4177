"""What does a client's sample request mean to the engine, and what is it told?

    request_of(body, ...) -> GenerateRequest         raises RequestError
    result_of(outputs, body) -> what `messages.write_sample` writes

`stop`: nothing given leaves the end of sequence in force, an empty list switches it off, strings
or ids are added to it. A sampled stop token is part of the answer's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evolute.train.tinker import tensors
from evolute.train.tinker.bodies import SampleBody
from evolute.train.tinker.datums import tokens_of
from evolute.train.tinker.tensors import FLOAT32, Array
from evolute.types import FinishReason, GenerateRequest, Output, RequestError, SamplingParams
from evolute.types.request import TopLogprob

NO_LOGPROB = -99999.0  # with token 0: an empty place among the most likely tokens
MAX_SAMPLES = 1024


def request_of(
    body: SampleBody, *, adapter: str | None, tenant: str, salt: str, context: int, vocab: int
) -> GenerateRequest:
    prompt = prompt_of(body, vocab)
    if not 1 <= body.num_samples <= MAX_SAMPLES:
        raise RequestError(f"num_samples is {body.num_samples}; it must lie in [1, {MAX_SAMPLES}].")
    params = body.sampling_params
    most = max(context - len(prompt), 1) if params.max_tokens is None else params.max_tokens
    stop, first = _stop(params.stop), _first(body, len(prompt))
    has_targets = body.target_prompt_logprobs is not None
    sampling = SamplingParams(
        max_new_tokens=most,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=0 if params.top_k == -1 else params.top_k,
        seed=params.seed,
        n=body.num_samples,
        top_logprobs=body.topk_sample_logprobs,
        prompt_logprobs=bool(body.prompt_logprobs or body.topk_prompt_logprobs or has_targets),
        prompt_logprobs_from=0 if has_targets else first,  # targets are of every prompt token
        prompt_top_logprobs=body.topk_prompt_logprobs,
        logprob_token_ids=tuple(np.unique(_targets(body, len(prompt), vocab)[1]).tolist()),
        **stop,
    )
    return GenerateRequest(tuple(prompt), sampling, adapter, tenant=tenant, cache_salt=salt)


def prompt_of(body: SampleBody, vocab: int) -> list[int]:
    ids = tokens_of(body.prompt, "prompt")
    if not len(ids):
        raise RequestError("the prompt has no tokens.")
    bad = ids[(ids < 0) | (ids >= vocab)]
    if bad.size:
        raise RequestError(
            f"token id {int(bad[0])} in prompt is out of vocabulary; ids are 0 to {vocab - 1}."
        )
    found: list[int] = ids.tolist()
    return found


def result_of(outputs: Sequence[Output], body: SampleBody) -> dict[str, Any]:
    """Raises RequestError or EvoluteError for an output that is none."""
    count = outputs[0].prompt_tokens or len(tokens_of(body.prompt, "prompt"))
    result: dict[str, Any] = {
        "sequences": [_sequence(output, body) for output in outputs],
        "cached_tokens": min(output.cached_tokens for output in outputs),
    }
    first = outputs[0]
    if body.prompt_logprobs:
        told = [math.nan if x is None else x for x in first.prompt_logprobs]
        result["prompt_logprobs"] = np.array([math.nan] * (count - len(told)) + told, FLOAT32)
        if body.prompt_logprobs_last_n is not None:
            result["prompt_logprobs"][: count - body.prompt_logprobs_last_n] = math.nan
    if body.topk_prompt_logprobs:
        empty: list[tuple[TopLogprob, ...]] = [()] * (count - len(first.prompt_top_logprobs))
        rows = [*empty, *first.prompt_top_logprobs]
        result["topk_prompt"] = _top(rows, body.topk_prompt_logprobs)
    if body.target_prompt_logprobs is not None:
        result["targets"] = _target_logprobs(first, body, count)
    return result


def to_json(result: dict[str, Any]) -> dict[str, Any]:
    """For clients that do not ask for protocol buffers."""
    found: dict[str, Any] = {"type": "sample", "sequences": []}
    for one in result["sequences"]:
        shown = {"stop_reason": one["stop_reason"], "tokens": one["tokens"].tolist()}
        found["sequences"].append(shown | {"logprobs": one["logprobs"].tolist()})
    if result.get("prompt_logprobs") is not None:
        numbers = result["prompt_logprobs"].tolist()
        found["prompt_logprobs"] = [None if math.isnan(x) else x for x in numbers]
    if result.get("topk_prompt") is not None:
        ids, logprobs = result["topk_prompt"]
        found["topk_prompt_logprobs"] = [
            [[i, p] for i, p in zip(*row) if p != NO_LOGPROB] or None
            for row in zip(ids.tolist(), logprobs.tolist())
        ]
    if result.get("targets") is not None:
        found["target_prompt_logprobs"] = tensors.to_json(result["targets"])
    return found


# -- internals ---------------------------------------------------------------


def _stop(stop: Any) -> dict[str, Any]:
    if stop is None:
        return {}
    if isinstance(stop, str):
        return {"stop": (stop,)}
    if not stop:
        return {"ignore_eos": True}
    if all(type(one) is int for one in stop):
        return {"stop_token_ids": tuple(stop)}
    if all(isinstance(one, str) for one in stop):
        return {"stop": tuple(stop)}
    raise RequestError("stop mixes texts and token ids; give one kind.")


def _first(body: SampleBody, count: int) -> int:
    last = body.prompt_logprobs_last_n
    if last is None:
        return 0
    if not body.prompt_logprobs:
        raise RequestError("prompt_logprobs_last_n is of prompt_logprobs, which was not asked for.")
    if not 1 <= last <= count - 1:
        raise RequestError(
            f"prompt_logprobs_last_n is {last}; with {count} prompt tokens it must lie in "
            f"[1, {count - 1}]."
        )
    return count - last - 1  # the engine tells nothing of the first


def _targets(body: SampleBody, count: int, vocab: int) -> tuple[Array, Array]:
    """The cells of target_prompt_logprobs, and the ids that they name."""
    if body.target_prompt_logprobs is None:
        return np.zeros((0, 0), np.int64), np.zeros(0, np.int64)
    if body.target_prompt_logprobs.get("sparse_crow_indices") is not None:
        raise RequestError("a sparse target_prompt_logprobs is not read; send it dense, with -1.")
    cells = tensors.from_json(body.target_prompt_logprobs, "target_prompt_logprobs")
    if cells.dtype.kind != "i" or cells.ndim != 2 or len(cells) != count - 1:
        raise RequestError(
            f"target_prompt_logprobs has the shape {list(cells.shape)}; it must be int64 with "
            f"{count - 1} rows, one for each prompt token but the first."
        )
    ids = cells[cells != -1]
    if not ids.size or ((ids < 0) | (ids >= vocab)).any():
        raise RequestError(
            "target_prompt_logprobs must name at least one id, all of the vocabulary."
        )
    return cells, ids


def _target_logprobs(output: Output, body: SampleBody, count: int) -> Array:
    cells, ids = _targets(body, count, 1 << 31)
    known = np.unique(ids)
    table = np.array(output.prompt_id_logprobs[-(count - 1) :], FLOAT32)
    column = np.clip(np.searchsorted(known, cells), 0, len(known) - 1)
    found = np.take_along_axis(table, column, 1)
    return np.where(cells == -1, np.float32(0), found).astype(FLOAT32)


def _sequence(output: Output, body: SampleBody) -> dict[str, Any]:
    if output.finish_reason in (FinishReason.ERROR, FinishReason.DEADLINE, FinishReason.ABORT):
        reason = output.error or f"the request was ended ({output.finish_reason})."
        raise RequestError(reason)
    stopped = output.finish_reason is FinishReason.STOP
    top = (
        _top(output.top_logprobs, body.topk_sample_logprobs) if body.topk_sample_logprobs else None
    )
    return {
        "stop_reason": "stop" if stopped else "length",
        "tokens": np.array(output.token_ids, np.int32),
        "logprobs": np.array(output.logprobs, FLOAT32),
        "topk": top,
    }


def _top(rows: Sequence[Sequence[TopLogprob]], k: int) -> tuple[Array, Array]:
    ids = np.zeros((len(rows), k), np.int32)
    logprobs = np.full((len(rows), k), NO_LOGPROB, FLOAT32)
    for i, row in enumerate(rows):
        for j, one in enumerate(row[:k]):
            ids[i, j], logprobs[i, j] = one.token_id, one.logprob
    return ids, logprobs
