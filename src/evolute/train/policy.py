"""The policy being trained: the frozen decoder with a LoRA adapter, and its log-probabilities.

Letters: T packed tokens, N trained tokens, G responses of a group, P prompt tokens, L longest
response, H query heads, K kv heads, E head width, D model width, V vocabulary.

Two savings, both exact: siblings share the computation of their prompt, and no more than
CHUNK rows of logits exist at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from evolute.models import Decoder, LoadedModel, LoraConfig, LoraWeights, attend_one
from evolute.train.rollouts.packing import MicroBatch, PackedGroup

CHUNK = 256


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A micro-batch as tensors. `predicts` are rows whose next token is a trained one."""

    token_ids: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    predicts: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    rollout_logprobs: Float[Tensor, " N"]
    advantages: Float[Tensor, " N"]
    sequence: Int[Tensor, " N"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probability (with gradient) and entropy (without) of each trained token."""

    logprobs: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]


class Policy:
    """Decoder and adapter. The adapter's tensors are the only ones with gradients."""

    def __init__(self, model: LoadedModel, lora: LoraConfig, seed: int = 0) -> None:
        self.decoder = Decoder(model.config)
        self.decoder.load(model.weights)
        self.decoder.requires_grad_(False)
        self.lora = LoraWeights.init(lora, model.config, seed)
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def parameters(self) -> list[Tensor]:
        return self.lora.parameters()

    def scores(self, batch: MicroBatch, temperature: float) -> tuple[TokenBatch, Scores]:
        """Score every trained token of a micro-batch."""
        tokens = to_tensors(batch)
        hidden = self.decoder(
            tokens.token_ids, tokens.positions, SharedPrefixAttention(batch), self.lora.delta
        )
        logprobs, entropy = _ChunkedLogprob.apply(  # type: ignore[no-untyped-call]
            hidden[tokens.predicts], self.decoder.head_weight, tokens.targets, temperature
        )
        return tokens, Scores(logprobs, entropy)


def to_tensors(batch: MicroBatch) -> TokenBatch:
    """Lay the groups of a micro-batch out."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[tuple[int, int, float, float, int]] = []
    for group in batch:
        last_prompt = len(ids) + len(group.prompt) - 1
        ids += group.prompt
        positions += range(len(group.prompt))
        for member in group.members:
            sample, start = member.sample, len(ids)
            for i, trained in enumerate(sample.loss_mask):
                if trained:
                    row = last_prompt if i == 0 else start + i - 1
                    logprob = sample.rollout_logprobs[i]
                    token = sample.response_ids[i]
                    rows.append((row, token, logprob, member.advantage, member.number))
            ids += sample.response_ids
            positions += range(len(group.prompt), len(group.prompt) + len(sample.response_ids))
    predicts, targets, logprobs, advantages, numbers = zip(*rows)
    return TokenBatch(
        torch.tensor(ids),
        torch.tensor(positions),
        torch.tensor(predicts),
        torch.tensor(targets),
        torch.tensor(logprobs),
        torch.tensor(advantages),
        torch.tensor(numbers),
    )


class SharedPrefixAttention:
    """An `Attend`: prompts see themselves, responses see their prompt and themselves."""

    def __init__(self, batch: MicroBatch) -> None:
        self._groups = [
            (len(g.prompt), [len(m.sample.response_ids) for m in g.members]) for g in batch
        ]
        self._masks = [_mask(prompt, lengths) for prompt, lengths in self._groups]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, start = [], 0
        for (prompt, lengths), mask in zip(self._groups, self._masks):
            size = prompt + sum(lengths)
            parts = (x[start : start + size] for x in (q, k, v))
            out += _attend_group(prompt, lengths, mask, *parts)
            start += size
        return torch.cat(out)


def _mask(prompt: int, lengths: list[int]) -> Tensor:
    longest = max(lengths)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return torch.cat([torch.ones(longest, prompt, dtype=torch.bool), causal], dim=1)


def _attend_group(
    prompt: int, lengths: list[int], mask: Tensor, q: Tensor, k: Tensor, v: Tensor
) -> list[Tensor]:
    own = attend_one(q[:prompt], k[:prompt], v[:prompt])
    q_G, k_G, v_G = (
        pad_sequence(list(torch.split(x[prompt:], lengths)), batch_first=True).transpose(1, 2)
        for x in (q, k, v)
    )
    keys = torch.cat([_shared(k[:prompt], len(lengths)), k_G], dim=2)
    values = torch.cat([_shared(v[:prompt], len(lengths)), v_G], dim=2)
    o_G = F.scaled_dot_product_attention(q_G, keys, values, attn_mask=mask, enable_gqa=True)
    return [own, *(o[:, :length].transpose(0, 1) for o, length in zip(o_G, lengths))]


def _shared(x: Float[Tensor, "P K E"], copies: int) -> Float[Tensor, "G K P E"]:
    return x.transpose(0, 1).expand(copies, -1, -1, -1)


class _ChunkedLogprob(torch.autograd.Function):
    """log softmax(hidden @ head.T / temperature)[target] with a frozen head.

    The gradient with respect to a hidden row is its upstream scalar times a vector that the
    forward pass already can compute, (head[target] - softmax @ head) / temperature: so logits
    are never kept and never computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        slope = torch.empty_like(hidden)
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ head.T).div_(temperature)
            normalizer = logits.logsumexp(-1, keepdim=True)
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - normalizer[:, 0]
            logits.sub_(normalizer)
            probabilities = logits.exp()
            entropies[part] = -(probabilities * logits).sum(-1)
            slope[part] = (head[targets[part]] - probabilities @ head) / temperature
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None] * slope, None, None, None


__all__ = ["PackedGroup", "Policy", "Scores", "SharedPrefixAttention", "TokenBatch", "to_tensors"]
