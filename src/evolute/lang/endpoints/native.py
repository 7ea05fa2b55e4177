"""What travels between a text backend and the native API? No I/O.

body(request)                     of POST /generate
output(item, request_id)          one answered sample
reply(outputs)                    all of a request
Deltas(request).push(event)       what an event has beyond those before it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from evolute.lang.account import Spent
from evolute.lang.backend import Made, Reply, TextRequest
from evolute.lang.endpoints.transport import failure
from evolute.types import (
    BackendError,
    Delta,
    FinishReason,
    Output,
    SamplingParams,
    TopLogprob,
)

RENAMED = {"include_stop": "no_stop_trim", "seed": "sampling_seed"}
ASKED_ELSEWHERE = {
    *("top_logprobs", "logprob_token_ids"),
    *("prompt_logprobs", "prompt_logprobs_from", "prompt_top_logprobs"),
}
PLAIN = SamplingParams()


def body(request: TextRequest) -> dict[str, Any]:
    """The server tokenises the texts, each by itself; what was made between them stays tokens."""
    sampling, prompt = request.sampling, request.prompt
    found: dict[str, Any] = {
        "input_pieces": [
            list(piece.token_ids) if isinstance(piece, Made) else piece.text
            for piece in prompt.pieces
        ],
        "add_special_tokens": not prompt.messages,
        "sampling_params": sampling_body(sampling),
        "return_logprob": True,
        "return_text_prefix": True,
        "rid": request.id,
        "user": request.tenant,
    }
    if sampling.prompt_logprobs:
        found["logprob_start_len"] = sampling.prompt_logprobs_from
    if sampling.top_logprobs:
        found["top_logprobs_num"] = sampling.top_logprobs
    if request.adapter:
        found["lora_path"] = request.adapter
    if request.priority:
        found["priority"] = request.priority
    if request.cache_salt:
        found["cache_salt"] = request.cache_salt
    return found


def sampling_body(sampling: SamplingParams) -> dict[str, Any]:
    """What differs from the defaults, which are the server's too; the length always."""
    found: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens}
    for name in (f.name for f in fields(SamplingParams) if f.name not in ASKED_ELSEWHERE):
        value = getattr(sampling, name)
        if value == getattr(PLAIN, name):
            continue
        if name == "logit_bias":
            value = {str(id): bias for id, bias in value.items()}
        found[RENAMED.get(name, name)] = list(value) if isinstance(value, tuple) else value
    return found


def output(item: Mapping[str, Any], index: int) -> Output:
    """Raises BackendError when the answer lacks what an answer has."""
    try:
        meta = item["meta_info"]
        finish = meta.get("finish_reason") or {}
        kind = finish.get("type")
        reason = FinishReason(kind) if kind in set(FinishReason) else FinishReason.STOP
        told = meta.get("output_token_logprobs") or ()
        prompt = meta.get("input_token_logprobs") or ()
        return Output(
            text=item["text"],
            token_ids=tuple(item["output_ids"]),
            logprobs=tuple(float(entry[0]) for entry in told),
            finish_reason=reason,
            cached_tokens=meta.get("cached_tokens") or 0,
            weight_version=_version(meta.get("weight_version")),
            prompt_tokens=meta["prompt_tokens"],
            top_logprobs=_top(meta.get("output_top_logprobs")),
            prompt_logprobs=tuple(entry[0] for entry in prompt),
            matched_stop=finish.get("matched"),
            text_prefix=_pair(meta.get("text_prefix")),
            index=index,
            request_id=str(meta.get("id", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        text = f"the endpoint's answer has no valid {error}: {str(item)[:200]}"
        raise BackendError(text) from error


def reply(items: Any) -> Reply:
    listed = items if isinstance(items, list) else [items]
    outputs = tuple(output(item, index) for index, item in enumerate(listed))
    return Reply(outputs, spent(outputs))


def spent(outputs: Sequence[Output]) -> Spent:
    return Spent(
        1,
        outputs[0].prompt_tokens,
        outputs[0].cached_tokens,
        sum(len(one.token_ids) for one in outputs),
    )


class Deltas:
    """Events of a stream hold all so far; here is what is new, and in the end the reply."""

    def __init__(self, request: TextRequest) -> None:
        self._samples: list[Mapping[str, Any] | None] = [None] * request.sampling.n
        self._told = [0] * request.sampling.n
        self._shown = [""] * request.sampling.n

    def push(self, event: Mapping[str, Any]) -> Iterator[Delta]:
        """Raises the error that the event carries, if it is one."""
        if "error" in event:
            raise failure(event, 500)
        index = event.get("index") or 0
        one = output(event, index)
        if event["meta_info"].get("finish_reason"):
            self._samples[index] = event
        told, shown = self._told[index], self._shown[index]
        text = one.text[len(shown) :]
        if text or one.token_ids[told:]:
            yield Delta(index, text, one.token_ids[told:], one.logprobs[told:])
        self._told[index], self._shown[index] = len(one.token_ids), one.text

    def reply(self) -> Reply:
        """Raises BackendError when a sample never ended."""
        if any(sample is None for sample in self._samples):
            raise BackendError("the endpoint's answer ended before all of it had come.")
        return reply([sample for sample in self._samples if sample is not None])


# -- internals ---------------------------------------------------------------


def _top(rows: Any) -> tuple[tuple[TopLogprob, ...], ...]:
    return tuple(tuple(TopLogprob(e[1], float(e[0])) for e in row or ()) for row in rows or ())


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def _version(label: Any) -> int:
    """A number where the server counts; a name of somebody's own is none."""
    return int(label) if str(label).isdecimal() else 0
