"""The policy being trained: the decoder, frozen with a LoRA adapter or trained as a whole.

    Policy(model, lora, seed)                 lora = None: all weights
    policy.scores(micro_batch, temperature)   log-probabilities with gradients
    policy.snapshot()                         a copy to publish or to save
    policy.with_adapter(lora)                 another adapter on the same decoder

Letters: T packed tokens, N trained tokens, D model width, V vocabulary.

Three savings, all exact: siblings share the computation of their prompt, no more than a block of
logits exists at any time, and with an adapter the decoder is fused (`fused.py`; `fused = false`
turns it off).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from evolute.models import (
    Decoder,
    LoadedModel,
    LoraConfig,
    LoraWeights,
    ModelWeights,
    causal_attention,
)
from evolute.train.fused import FusedDecoder
from evolute.train.prefix_attention import SharedPrefixAttention
from evolute.train.rollouts.packing import Credited, MicroBatch

ROWS, COLUMNS = 1024, 2048  # a block of logits with a frozen head: it should stay in the cache
CHUNK = 256  # rows of logits with a head in training


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A micro-batch as tensors. `predicts` are rows whose next token is a trained one."""

    token_ids: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    predicts: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
    rollout_logprobs: Float[Tensor, " N"]
    advantages: Float[Tensor, " N"]  # weight included
    sequence: Int[Tensor, " N"]
    weights: Float[Tensor, " N"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probability (with gradient), entropy and hidden state (without) at each trained token."""

    logprobs: Float[Tensor, " N"]
    entropy: Float[Tensor, " N"]
    hidden: Float[Tensor, "N D"]


class Policy:
    """Decoder and adapter. What `parameters` gives are the only tensors with gradients."""

    is_sharded = False  # each rank holds a part of every tensor (`sharded.py`)

    def __init__(
        self,
        model: LoadedModel,
        lora: LoraConfig | None,
        seed: int = 0,
        *,
        fused: bool = True,
        precision: str = "float32",
    ) -> None:
        self.decoder = Decoder(model.config)
        self.decoder.load(model.weights)
        self.decoder.requires_grad_(lora is None)
        self.lora = LoraWeights.init(lora, model.config, seed) if lora else None
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        self._fused = (
            FusedDecoder(self.decoder, self.lora, precision) if fused and self.lora else None
        )
        self._half_head = self.decoder.head_weight.bfloat16() if precision != "float32" else None

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The trained tensors in a fixed order."""
        if self.lora is None:
            return list(self.decoder.named_parameters())
        return self.lora.named_parameters()

    def parameters(self) -> list[Tensor]:
        return [tensor for _, tensor in self.named_parameters()]

    def gradients(self) -> list[Tensor]:
        """Of the trained tensors; zeros where no token of this process reached one."""
        found = []
        for parameter in self.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            found.append(parameter.grad)
        return found

    def fingerprint(self) -> str:
        """That of a snapshot."""
        return self.snapshot().fingerprint()

    def snapshot(self) -> LoraWeights | ModelWeights:
        """A detached copy, which later training does not change."""
        return self.base_weights() if self.lora is None else self.lora.clone()

    def base_weights(self) -> ModelWeights:
        """A copy of the decoder's weights, without the adapter."""
        named = self.decoder.named_parameters()
        return ModelWeights({name: parameter.detach().clone() for name, parameter in named})

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base model inside, for scores without gradients; the adapter as it was after."""
        assert self.lora is not None, "all weights are trained: there is no base left"
        kept = [(b, b.detach().clone()) for _, b in self.lora.tensors.values()]
        try:
            with torch.no_grad():
                for b, _ in kept:
                    b.zero_()
            yield
        finally:
            with torch.no_grad():
                for b, value in kept:
                    b.copy_(value)

    def logprobs(self, ids: Int[Tensor, " T"]) -> Float[Tensor, " T-1"]:
        """Of each token of one sequence but the first, at temperature 1, without gradients."""
        with torch.no_grad():
            attend = causal_attention([len(ids)], self.decoder.config.sliding_window)
            delta = self.lora.delta if self.lora else None
            hidden = self.decoder(ids, torch.arange(len(ids)), attend, delta)
            logits = hidden[:-1] @ self.decoder.head_weight.T
            found: Tensor = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
            return found

    def scores(self, batch: MicroBatch, temperature: float) -> tuple[TokenBatch, Scores]:
        """Score every trained token of a micro-batch."""
        tokens = to_tensors(batch)
        hidden = self.hidden(tokens, batch)
        return tokens, self.score(hidden[tokens.predicts], tokens.targets, temperature)

    def hidden(self, tokens: TokenBatch, batch: MicroBatch) -> Float[Tensor, "T D"]:
        """Of each packed token, with gradients."""
        attend = SharedPrefixAttention(batch, self.decoder.config.sliding_window)
        if self._fused is not None:
            return self._fused(tokens.token_ids, tokens.positions, attend)
        delta = self.lora.delta if self.lora else None
        hidden: Tensor = self.decoder(tokens.token_ids, tokens.positions, attend, delta)
        return hidden

    def score(
        self, rows: Float[Tensor, "N D"], targets: Int[Tensor, " N"], temperature: float
    ) -> Scores:
        """Of the tokens `targets` after the hidden states `rows`."""
        head, half = self.decoder.head_weight, self._half_head
        if head.requires_grad:
            found = _chunked_logprobs(rows, head, targets, temperature)
            return Scores(*found, rows.detach())
        logprobs, entropy = _BlockedLogprob.apply(  # type: ignore[no-untyped-call]
            rows, head, half, targets, temperature
        )
        return Scores(logprobs, entropy, rows.detach())

    def with_adapter(self, lora: LoraWeights) -> Policy:
        """Another adapter in training on the same frozen decoder, which is not copied."""
        assert self.lora is not None, "all weights are trained: there is nothing to share"
        other = copy.copy(self)
        other.lora = lora
        for parameter in other.parameters():
            parameter.requires_grad_(True)
        other._fused = self._fused.with_adapter(lora) if self._fused else None
        return other


def to_tensors(batch: MicroBatch) -> TokenBatch:
    """Lay the groups of a micro-batch out."""
    ids: list[int] = []
    positions: list[int] = []
    rows: list[tuple[int, int, float, float, int, float]] = []
    for group in batch:
        last_prompt = len(ids) + len(group.prompt) - 1
        ids += group.prompt
        positions += range(len(group.prompt))
        for member in group.members:
            sample, start = member.sample, len(ids)
            credit = _advantages(member)
            for i, trained in enumerate(sample.loss_mask):
                if trained:
                    row = last_prompt if i == 0 else start + i - 1
                    logprob = sample.rollout_logprobs[i]
                    token = sample.response_ids[i]
                    rows.append((row, token, logprob, next(credit), member.number, member.weight))
            ids += sample.response_ids
            positions += range(len(group.prompt), len(group.prompt) + len(sample.response_ids))
    predicts, targets, logprobs, advantages, numbers, weights = zip(*rows)
    return TokenBatch(
        torch.tensor(ids),
        torch.tensor(positions),
        torch.tensor(predicts),
        torch.tensor(targets),
        torch.tensor(logprobs),
        torch.tensor(advantages),
        torch.tensor(numbers),
        torch.tensor(weights),
    )


def _advantages(member: Credited) -> Iterator[float]:
    """Of one trained token after the other."""
    if member.per_token is None:
        return repeat(member.advantage)
    weighted: list[float] = (member.per_token.double() * member.weight).tolist()
    return iter(weighted)


def _chunked_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The same for a head in training: a chunk's logits are computed again for its gradients."""
    parts = [
        checkpoint(
            _logprobs, hidden[start : start + CHUNK], head, part, temperature, use_reentrant=False
        )
        for start in range(0, len(hidden), CHUNK)
        for part in (targets[start : start + CHUNK],)
    ]
    logprobs, entropies = zip(*parts)
    return torch.cat(logprobs), torch.cat(entropies).detach()


def _logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    all_logprobs = (hidden @ head.T / temperature).log_softmax(-1)
    entropy = -(all_logprobs.exp() * all_logprobs).detach().sum(-1)
    return all_logprobs.gather(1, targets[:, None])[:, 0], entropy


class _BlockedLogprob(torch.autograd.Function):
    """log softmax(hidden @ head.T / temperature)[target] with a frozen head.

    The gradient with respect to a hidden row is its upstream scalar times a vector that the
    forward pass already can compute, (head[target] - softmax @ head) / temperature: so logits
    are never kept and never computed twice. The vocabulary is walked in blocks that stay in the
    cache, with the online softmax (Milakov and Gimelshein 2018).
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
        room = hidden.new_empty(2, min(ROWS, len(hidden)) * min(COLUMNS, len(head)))
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            softmax = _OnlineSoftmax(hidden[part], targets[part], temperature, room)
            for first in range(0, len(head), COLUMNS):
                block = slice(first, first + COLUMNS)
                softmax.add(head[block], None if half is None else half[block], first)
            logprobs[part] = softmax.chosen - softmax.top - softmax.total.log()
            entropies[part] = softmax.total.log() - softmax.along / softmax.total
            mean = softmax.mean / softmax.total[:, None]
            slope[part] = (head[targets[part]] - mean) / temperature
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return grads[0][:, None] * slope, None, None, None, None


class _OnlineSoftmax:
    """Sums over the vocabulary, one block of it at a time, all relative to the top so far."""

    def __init__(
        self, x: Float[Tensor, "N D"], targets: Int[Tensor, " N"], temperature: float, room: Tensor
    ) -> None:
        self._x, self._targets, self._temperature, self._room = x, targets, temperature, room
        self.top = x.new_full((len(x),), -1e30)  # of the logits
        self.total, self.along, self.chosen = x.new_zeros(
            3, len(x)
        )  # sum p, sum p l, the target's l
        self.mean = torch.zeros_like(x)  # sum p head

    def add(self, head: Float[Tensor, "C D"], half: Tensor | None, first: int) -> None:
        """A block of the head, whose first row is token `first`."""
        n, columns = len(self._x), len(head)
        logits, p = (side[: n * columns].view(n, columns) for side in self._room)
        torch.mm(self._x, head.T, out=logits).div_(self._temperature)
        index = self._targets - first
        found = logits.gather(1, index.clamp(0, columns - 1)[:, None])[:, 0]
        self.chosen = torch.where((index >= 0) & (index < columns), found, self.chosen)
        top = torch.maximum(self.top, logits.amax(-1))
        torch.exp(logits.sub_(top[:, None]), out=p)
        shift = self.top - top
        decay = shift.exp()
        self.along = decay * (self.along + self.total * shift) + torch.mul(
            p, logits, out=logits
        ).sum(-1)
        self.total = decay * self.total + p.sum(-1)
        self.mean.mul_(decay[:, None])
        if half is None:
            self.mean.addmm_(p, head)
        else:
            self.mean.add_(p.bfloat16() @ half)
        self.top = top
