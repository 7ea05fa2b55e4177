"""What is kept of a request that has ended, and what is a client told?

of_pass(request, scored) -> bytes, of_sample(...), of_json(...)      as they are kept
answer(future, wants_proto=...) -> (content type, bytes)
category_of(error), message_of(error)        whose fault a failure was, in the client's words
"""

from __future__ import annotations

import json
from typing import Any

from evolute.train.tinker import messages, sampling, tensors
from evolute.train.tinker.passes import Request, Scored
from evolute.train.tinker.records import Future, Kind
from evolute.types import EvoluteError, RequestError, TrainingError, WireError

PROTO, JSON = "application/x-protobuf", "application/json"
IN_PROTO = (Kind.FORWARD, Kind.FORWARD_BACKWARD, Kind.SAMPLE)


class ServerFault(EvoluteError):
    """Nothing that the client did."""


def of_json(result: dict[str, Any]) -> bytes:
    return json.dumps(result).encode()


def of_pass(request: Request, scored: Scored) -> bytes:
    outputs = []
    for datum, logprobs, losses in zip(request.datums, scored.logprobs, scored.losses):
        shape = (-1,) if datum.is_flat else logprobs.shape
        outputs.append(
            {"logprobs": logprobs.reshape(shape), "elementwise_loss": losses.reshape(shape)}
        )
    metrics = {"loss:sum": scored.loss, "num_trained_tokens:sum": float(scored.num_trained)}
    if request.spec.name != "cross_entropy" and scored.num_trained:
        metrics["ratio:max"] = scored.ratio_max
    return messages.write_forward_backward({"loss_fn_outputs": outputs, "metrics": metrics})


def of_sample(result: dict[str, Any]) -> bytes:
    return messages.write_sample(result)


def answer(future: Future, *, wants_proto: bool) -> tuple[str, bytes]:
    """Of a future that is done and whose result is still kept."""
    assert future.result is not None
    if future.kind not in IN_PROTO:
        return JSON, future.result
    if wants_proto:
        return PROTO, future.result
    if future.kind is Kind.SAMPLE:
        return JSON, of_json(sampling.to_json(messages.read_sample(future.result)))
    found = messages.read_outputs(future.result)
    outputs = [
        {name: tensors.to_json(array) for name, array in one.items()}
        for one in found["loss_fn_outputs"]
    ]
    shown = {
        "type": future.kind.value,
        "loss_fn_output_type": messages.OUTPUT_TYPE,
        "loss_fn_outputs": outputs,
        "metrics": found["metrics"],
    }
    return JSON, of_json(shown)


def category_of(error: Exception) -> str:
    """user, server or unknown, as the client's RequestErrorCategory."""
    if isinstance(error, RequestError | WireError | TrainingError):
        return "user"
    return "server"


def message_of(error: Exception) -> str:
    """What is not ours is not shown: its text may hold anything."""
    return (
        str(error) if isinstance(error, EvoluteError) else "internal error; see the server's log."
    )
