"""The policy being trained: the frozen decoder with a LoRA adapter, and its log-probabilities.

Letters: T packed tokens, N trained tokens, G responses of a group, P prompt tokens, L longest
response, H query heads, K kv heads, E head width, D model width, V vocabulary.

Three savings, all exact: siblings share the computation of their prompt, no more than CHUNK rows
of logits exist at any time, and the decoder is fused (`fused.py`; `fused = false` turns it off).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evolute.models import Attend, Decoder, LoadedModel, LoraConfig, LoraWeights
from evolute.train.fused import FusedDecoder
from evolute.train.prefix_attention import SharedPrefixAttention
from evolute.train.rollouts.packing import MicroBatch

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

    def __init__(
        self,
        model: LoadedModel,
        lora: LoraConfig,
        seed: int = 0,
        *,
        fused: bool = True,
        precision: str = "float32",
    ) -> None:
        self.decoder = Decoder(model.config)
        self.decoder.load(model.weights)
        self.decoder.requires_grad_(False)
        self.lora = LoraWeights.init(lora, model.config, seed)
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        self._fused = FusedDecoder(self.decoder, self.lora, precision) if fused else None
        self._half_head = self.decoder.head_weight.bfloat16() if precision != "float32" else None

    def parameters(self) -> list[Tensor]:
        return self.lora.parameters()

    def scores(self, batch: MicroBatch, temperature: float) -> tuple[TokenBatch, Scores]:
        """Score every trained token of a micro-batch."""
        tokens = to_tensors(batch)
        hidden = self._hidden(tokens, SharedPrefixAttention(batch))
        logprobs, entropy = _ChunkedLogprob.apply(  # type: ignore[no-untyped-call]
            hidden[tokens.predicts],
            self.decoder.head_weight,
            self._half_head,
            tokens.targets,
            temperature,
        )
        return tokens, Scores(logprobs, entropy)

    def _hidden(self, tokens: TokenBatch, attend: Attend) -> Float[Tensor, "T D"]:
        if self._fused is not None:
            return self._fused(tokens.token_ids, tokens.positions, attend)
        hidden: Tensor = self.decoder(tokens.token_ids, tokens.positions, attend, self.lora.delta)
        return hidden


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


class _ChunkedLogprob(torch.autograd.Function):
    """log softmax(hidden @ head.T / temperature)[target] with a frozen head.

    The gradient with respect to a hidden row is its upstream scalar times a vector that the
    forward pass already can compute, (head[target] - softmax @ head) / temperature: so logits
    are never kept and never computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        half: Tensor | None,
        targets: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """`half` is the head in bfloat16 for the gradient's product, or None."""
        logprobs, entropies = hidden.new_empty(len(hidden)), hidden.new_empty(len(hidden))
        slope = torch.empty_like(hidden)
        room = hidden.new_empty(2, min(CHUNK, len(hidden)), len(head))  # used again by each chunk
        for start in range(0, len(hidden), CHUNK):
            part = slice(start, start + CHUNK)
            logits, probabilities = room[0, : len(targets[part])], room[1, : len(targets[part])]
            torch.mm(hidden[part], head.T, out=logits).div_(temperature)
            logits.sub_(logits.amax(-1, keepdim=True))
            torch.exp(logits, out=probabilities)
            total = probabilities.sum(-1)
            chosen = logits.gather(1, targets[part, None])[:, 0]
            logprobs[part] = chosen - total.log()
            entropies[part] = total.log() - torch.linalg.vecdot(probabilities, logits) / total
            mean = probabilities @ head if half is None else (probabilities.bfloat16() @ half)
            slope[part] = (head[targets[part]] - mean / total[:, None]) / temperature
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None] * slope, None, None, None, None
