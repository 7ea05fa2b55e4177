"""New weights into the live engine of this process, with proof that they arrived.

    proof = await publish(engine, name, policy, version, canary)     name = None: the base weights

Two independent checks (`proof.py`): the digest of the weights as the engine holds them equals the
trainer's, and both sides give a canary prompt the same log-probability.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from evolute.engine import EngineConfig
from evolute.models import LoraWeights, ModelWeights
from evolute.train.policy import Policy
from evolute.train.sync.proof import PublishProof, check_canary, check_digest
from evolute.types import Backend, GenerateRequest, Output, SamplingParams


@runtime_checkable
class LiveEngine(Backend, Protocol):
    """An engine, or several that look like one: what a run asks of it besides completions."""

    @property
    def config(self) -> EngineConfig: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def stats(self) -> Any: ...
    def load_adapter(
        self, name: str, weights: LoraWeights, *, version: int | None = None
    ) -> Any: ...
    def load_weights(self, weights: ModelWeights, *, version: int) -> str: ...
    def generate(
        self, prompts: Any, sampling: Any = ..., adapter: str | None = None
    ) -> list[Output]: ...


async def publish(
    engine: LiveEngine,
    name: str | None,
    policy: Policy,
    version: int,
    canary: tuple[int, ...],
    *,
    freeze: bool = False,
) -> PublishProof:
    """Load the policy's weights into the engine: the adapter `name`, or without a name the base.

    With `freeze` requests stand still in place until the digest is proved, and go on with the new
    weights. Raises TrainingError when they did not arrive.
    """
    weights = policy.snapshot()
    expected = weights.fingerprint()
    if freeze:
        await asyncio.to_thread(engine.pause)
    try:
        held = await asyncio.to_thread(load, engine, name, weights, version)
        check_digest(version, name, held, expected)
    finally:
        if freeze:
            await asyncio.to_thread(engine.resume)
    theirs = await _told(engine, name, canary)
    ours = await asyncio.to_thread(policy.logprobs, torch.tensor(canary))
    difference = check_canary(version, name, ours, theirs, engine.config.precision)
    return PublishProof(version, expected, difference)


def load(
    engine: LiveEngine, name: str | None, weights: LoraWeights | ModelWeights, version: int
) -> str:
    """The digest of what the engine holds afterwards."""
    if isinstance(weights, LoraWeights):
        if name is None:
            raise ValueError("an adapter needs a name")
        digest: str = engine.load_adapter(name, weights, version=version).fingerprint
        return digest
    return engine.load_weights(weights, version=version)


# -- internals ---------------------------------------------------------------


async def _told(engine: LiveEngine, name: str | None, canary: tuple[int, ...]) -> Tensor:
    """The engine's log-probabilities of the canary's tokens but the first."""
    sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    (output,) = await engine.agenerate(GenerateRequest(canary, sampling, name))
    return torch.tensor([x for x in output.prompt_logprobs if x is not None])
