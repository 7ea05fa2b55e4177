"""New weights into the live engine, with proof that they arrived.

    proof = await publish(engine, name, policy, version, canary)     name = None: the base weights

Two independent checks: the digest of the weights as the engine holds them equals the trainer's,
and both sides give a canary prompt the same log-probability.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch

from evolute.engine import Engine
from evolute.models import LoraWeights, ModelWeights
from evolute.train.policy import Policy
from evolute.types import GenerateRequest, SamplingParams, TrainingError

MAX_CANARY_DIFFERENCE = {"float32": 1e-3, "quantized": 1.0, "int8": 1.0}


@dataclass(frozen=True, slots=True)
class PublishProof:
    """What was compared: digests equal, and the canary's largest difference."""

    version: int
    fingerprint: str
    canary_abs_diff: float


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
        held = await asyncio.to_thread(_load, engine, name, weights, version)
    finally:
        if freeze:
            await asyncio.to_thread(engine.resume)
    if held != expected:
        raise TrainingError(
            f"publication {version} of {name!r}: the engine holds {held[:12]}, the "
            f"trainer {expected[:12]}. The weights did not arrive; nothing further was done."
        )
    difference = await _canary_difference(engine, name, policy, canary)
    limit = MAX_CANARY_DIFFERENCE[engine.config.precision]
    if not difference <= limit:
        raise TrainingError(
            f"publication {version} of {name!r}: the canary's log-probabilities differ by "
            f"{difference:.2g} (limit {limit}); trainer and engine compute different models."
        )
    return PublishProof(version, expected, difference)


async def _canary_difference(
    engine: Engine, name: str | None, policy: Policy, canary: tuple[int, ...]
) -> float:
    sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    (output,) = await engine.agenerate(GenerateRequest(canary, sampling, name))
    theirs = torch.tensor([x for x in output.prompt_logprobs if x is not None])
    ours = await asyncio.to_thread(policy.logprobs, torch.tensor(canary))
    return float((ours - theirs).abs().max())


def _load(
    engine: Engine, name: str | None, weights: LoraWeights | ModelWeights, version: int
) -> str:
    """The digest of what the engine holds afterwards."""
    if isinstance(weights, LoraWeights):
        if name is None:
            raise ValueError("an adapter needs a name")
        return engine.load_adapter(name, weights, version=version).fingerprint
    return engine.load_weights(weights, version=version)
