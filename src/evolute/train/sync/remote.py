"""Weights to engines in other processes, by any way, each proved by its engine.

    attend(channel, receiver, EngineHolder(engine, name))        in the engine's process
    answer(message, receiver, holder, timeout_s)                 one publication of it
    publish_remotely(channels, sender, policy, version, canary)  in the trainer's
    release(channels)                                            ends those that attend

A channel is a `multiprocessing.connection.Connection`, or what is used like one, with JSON on it;
the weights go by the sender (`shared_memory`, `broadcast`, `delta`). The trainer asks, sends, and
waits for each answer: the digest of what the engine holds, and its log-probabilities of the canary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from evolute.models import LoraWeights, ModelWeights
from evolute.train.sync.proof import PublishProof, check_canary, check_digest
from evolute.train.sync.publish import LiveEngine, load
from evolute.train.sync.wire import Packed, pack, unpack
from evolute.types import EvoluteError, SamplingParams, TrainingError


@runtime_checkable
class Sender(Protocol):
    """The trainer's end of a way."""

    def send(self, packed: Packed) -> None: ...


@runtime_checkable
class Receiver(Protocol):
    """An engine's end of a way."""

    def receive(self, version: int, timeout_s: float) -> Packed: ...


@runtime_checkable
class Publishable(Protocol):
    """What is published: a policy, or what was taken of one."""

    def snapshot(self) -> LoraWeights | ModelWeights: ...
    def logprobs(self, ids: Tensor) -> Tensor: ...


@runtime_checkable
class Channel(Protocol):
    """The trainer's end of a way to one engine, as of a `Connection`."""

    def send_bytes(self, buf: bytes, /) -> None: ...
    def poll(self, timeout: float, /) -> bool: ...
    def recv_bytes(self) -> bytes: ...


class EngineHolder:
    """An engine that gets the adapter `name`, or without a name the base weights."""

    def __init__(self, engine: LiveEngine, name: str | None) -> None:
        self.engine, self.name = engine, name

    def load(self, weights: LoraWeights | ModelWeights, version: int) -> str:
        """The digest of what is held afterwards. Requests stand still meanwhile."""
        self.engine.pause()
        try:
            return load(self.engine, self.name, weights, version)
        finally:
            self.engine.resume()

    def logprobs(self, canary: Sequence[int]) -> list[float]:
        sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
        (output,) = self.engine.generate(list(canary), sampling, self.name)
        return [x for x in output.prompt_logprobs if x is not None]

    @property
    def precision(self) -> str:
        return self.engine.config.precision


def attend(
    channel: Connection, receiver: Receiver, holder: EngineHolder, timeout_s: float = 60.0
) -> None:
    """Answer publications until the trainer releases this process or is gone."""
    while True:
        try:
            asked = json.loads(channel.recv_bytes())
        except EOFError:
            return
        if asked["kind"] == "release":
            return
        channel.send_bytes(answer(asked, receiver, holder, timeout_s))


def answer(
    asked: Mapping[str, Any], receiver: Receiver, holder: EngineHolder, timeout_s: float
) -> bytes:
    """Receive and load what was asked for; what is held then, or why it is not."""
    version = asked["version"]
    try:
        packed = receiver.receive(version, timeout_s)
        held = holder.load(unpack(packed), version)
        found: dict[str, Any] = {
            "version": version,
            "fingerprint": held,
            "logprobs": holder.logprobs(asked["canary"]),
            "precision": holder.precision,
        }
    except EvoluteError as error:
        found = {"version": version, "error": f"{type(error).__name__}: {error}"}
    return json.dumps(found).encode()


def publish_remotely(
    channels: Sequence[Channel],
    sender: Sender,
    policy: Publishable,
    version: int,
    canary: Sequence[int],
    timeout_s: float = 60.0,
) -> list[PublishProof]:
    """A proof from each engine. Raises TrainingError, naming the engine, when one has none."""
    packed = pack(policy.snapshot(), version)
    ask = json.dumps({"kind": "publish", "version": version, "canary": list(canary)}).encode()
    for number, channel in enumerate(channels):
        _tell(channel, ask, number, version)
    sender.send(packed)
    ours = policy.logprobs(torch.tensor(list(canary)))
    proofs = []
    for number, channel in enumerate(channels):
        answer = _answer(channel, number, version, timeout_s)
        name = f"engine {number}"
        check_digest(version, name, answer["fingerprint"], packed.manifest.fingerprint)
        theirs = torch.tensor(answer["logprobs"])
        difference = check_canary(version, name, ours, theirs, answer["precision"])
        proofs.append(PublishProof(version, answer["fingerprint"], difference))
    return proofs


def release(channels: Sequence[Channel]) -> None:
    """Let those that attend end; one that is gone is no error."""
    for channel in channels:
        try:
            channel.send_bytes(json.dumps({"kind": "release"}).encode())
        except OSError:
            continue


# -- internals ---------------------------------------------------------------


def _tell(channel: Channel, message: bytes, number: int, version: int) -> None:
    try:
        channel.send_bytes(message)
    except OSError as error:
        raise TrainingError(
            f"engine {number} is gone ({error}); weights {version} were not published to it. "
            "Start it anew."
        ) from error


def _answer(channel: Channel, number: int, version: int, timeout_s: float) -> dict[str, Any]:
    try:
        if not channel.poll(timeout_s):
            raise TrainingError(
                f"engine {number} did not prove weights {version} within {timeout_s:g} s."
            )
        answer: dict[str, Any] = json.loads(channel.recv_bytes())
    except (EOFError, OSError) as error:
        raise TrainingError(f"engine {number} died while it got weights {version}.") from error
    if "error" in answer or answer["version"] != version:
        why = answer.get("error", f"it speaks of version {answer['version']}")
        raise TrainingError(f"engine {number} has not got weights {version}: {why}")
    return answer
