"""New weights into the live engine, with proof that they arrived.

    proof = await publish(engine, name, policy, version, canary)

Two independent checks: the digest of the adapter as the engine holds it equals the trainer's,
and both sides give a canary prompt the same log-probability.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch

from evolute.engine import Engine
from evolute.models import causal_attention
from evolute.train.policy import Policy
from evolute.types import GenerateRequest, SamplingParams, TrainingError

MAX_CANARY_DIFFERENCE = {"float32": 1e-3, "quantized": 1.0}


@dataclass(frozen=True, slots=True)
class PublishProof:
    """What was compared: digests equal, and the canary's largest difference."""

    version: int
    fingerprint: str
    canary_abs_diff: float


async def publish(
    engine: Engine, name: str, policy: Policy, version: int, canary: tuple[int, ...]
) -> PublishProof:
    """Load the policy's adapter into the engine. Raises TrainingError when it did not arrive."""
    weights = policy.lora.clone()
    info = await asyncio.to_thread(engine.load_adapter, name, weights, version=version)
    expected = weights.fingerprint()
    if info.fingerprint != expected:
        raise TrainingError(
            f"publication {version} of {name!r}: the engine holds {info.fingerprint[:12]}, the "
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
    engine: Engine, name: str, policy: Policy, canary: tuple[int, ...]
) -> float:
    sampling = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
    (output,) = await engine.agenerate(GenerateRequest(canary, sampling, name))
    theirs = torch.tensor([x for x in output.prompt_logprobs if x is not None])
    ours = await asyncio.to_thread(_own_logprobs, policy, canary)
    return float((ours - theirs).abs().max())


@torch.no_grad()
def _own_logprobs(policy: Policy, canary: tuple[int, ...]) -> torch.Tensor:
    ids = torch.tensor(canary)
    attend = causal_attention([len(ids)], policy.decoder.config.sliding_window)
    hidden = policy.decoder(ids, torch.arange(len(ids)), attend, policy.lora.delta)
    logits = hidden[:-1] @ policy.decoder.head_weight.T
    own: torch.Tensor = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return own
