"""New weights into the live engine of this process, with proof that they arrived.

    proof = await publish(engine, name, policy, version, canary)     name = None: the base weights

Two independent checks (`proof.py`): the digest of the weights as the engine holds them equals the
trainer's, and both sides give a canary prompt the same log-probability.
"""

from __future__ import annotations

import asyncio

import torch
from torch import Tensor

from evolute.engine import Engine
from evolute.models import LoraWeights, ModelWeights
from evolute.train.policy import Policy
from evolute.train.sync.proof import PublishProof, check_canary, check_digest
from evolute.types import GenerateRequest, SamplingParams


async def publish(
    engine: Engine,
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
    engine: Engine, name: str | None, weights: LoraWeights | ModelWeights, version: int
) -> str:
    """The digest of what the engine holds afterwards."""
    if isinstance(weights, LoraWeights):
        if name is None:
            raise ValueError("an adapter needs a name")
        return engine.load_adapter(name, weights, version=version).fingerprint
    return engine.load_weights(weights, version=version)


# -- internals ---------------------------------------------------------------


async def _told(engine: Engine, name: str | None, canary: tuple[int, ...]) -> Tensor:
    """The engine's log-probabilities of the canary's tokens but the first."""
    sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    (output,) = await engine.agenerate(GenerateRequest(canary, sampling, name))
    return torch.tensor([x for x in output.prompt_logprobs if x is not None])
