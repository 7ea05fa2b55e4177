"""What do the tokens of some requests score, and what is the gradient of their losses?

run(policy, requests, budget) -> [Scored]     the gradient is left in the parameters' `grad`

The requests are those of one adapter before its next step. They are packed as the trainer packs
rollouts: a datum is a prompt and what follows its first trained position, equal prompts are
computed once, and log-probabilities of tokens without a loss are told but kept out of the
gradient's rows. So a datum that says what a rollout says gives the trainer's gradient to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from evolute.train.algorithms import LossTokens
from evolute.train.policy import Policy, Scores, TokenBatch, to_tensors
from evolute.train.rollouts.packing import Credited, MicroBatch, pack
from evolute.train.tinker.datums import Datum
from evolute.train.tinker.losses import LossSpec
from evolute.train.tinker.tensors import Array
from evolute.types import TrainingError, TrainingSample

ROWS = 256  # of logits that exist at a time where nothing is trained
TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One forward or forward_backward."""

    datums: Sequence[Datum]
    spec: LossSpec
    is_backward: bool


@dataclass(slots=True)
class Scored:
    """Of each datum [T, K]; `loss` is the sum over all its tokens."""

    logprobs: list[Array]
    losses: list[Array]
    loss: float = 0.0
    ratio_max: float = 0.0
    num_trained: int = field(default=0)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where in a micro-batch the cells of some datums are, in the order of its members."""

    rows: Array  # packed rows, one a cell
    cells: list[tuple[int, Array]]  # datum's number, flat indices of its [T, K]


def run(policy: Policy, requests: Sequence[Request], budget: int) -> list[Scored]:
    """Raises TrainingError when a loss or gradient is not finite; `grad` is then undefined.

    `budget` is tokens of a micro-batch: it bounds memory, never the result.
    """
    datums = [datum for request in requests for datum in request.datums]
    owner = [i for i, request in enumerate(requests) for _ in request.datums]
    found = [Scored(_zeros(request), _zeros(request)) for request in requests]
    first = np.cumsum([0, *(len(r.datums) for r in requests)])
    trained = [_trained(d, requests[i].is_backward) for d, i in zip(datums, owner)]
    samples = [_credited(d, t, n) for n, (d, t) in enumerate(zip(datums, trained))]
    for batch in pack(samples, budget):
        _micro_batch(policy, batch, datums, trained, owner, requests, found, first)
    bad = [i for i, one in enumerate(found) if not np.isfinite(one.loss)]
    if bad:
        raise TrainingError("the loss is not finite; nothing was added to the gradient.")
    return found


def prompt_length(datum: Datum, trained: Array) -> int:
    """Tokens up to and with the first position that is trained: what siblings may share."""
    where = np.flatnonzero(trained.any(1))
    return int(where[0]) + 1 if len(where) else len(datum)


# -- internals ---------------------------------------------------------------


def _zeros(request: Request) -> list[Array]:
    return [np.zeros(datum.targets.shape, np.float32) for datum in request.datums]


def _trained(datum: Datum, is_backward: bool) -> Array:
    return datum.is_trained if is_backward else np.zeros_like(datum.is_trained)


def _credited(datum: Datum, trained: Array, number: int) -> Credited:
    """The datum as the packer sees it: what is behind the prompt, with the last target at the end,
    as a rollout has it. What is trained is decided by cells, not by this mask."""
    at = prompt_length(datum, trained)
    ids = datum.tokens.tolist()
    response = (*ids[at:], int(datum.targets[-1, 0]))
    sample = TrainingSample(
        tuple(ids[:at]), response, (True,) * len(response), (0.0,) * len(response)
    )
    return Credited(sample, 0, 1.0, number)


def _micro_batch(
    policy: Policy,
    batch: MicroBatch,
    datums: Sequence[Datum],
    trained: Sequence[Array],
    owner: Sequence[int],
    requests: Sequence[Request],
    found: Sequence[Scored],
    first: Array,
) -> None:
    tokens = to_tensors(batch)
    learns = _places(batch, datums, trained)
    told = _places(batch, datums, [~t for t in trained])
    needs_gradient = bool(len(learns.rows))
    with torch.set_grad_enabled(needs_gradient):
        hidden = policy.hidden(tokens, batch)
    if needs_gradient:
        tokens = _tokens(tokens, learns, datums)
        scores = policy.score(hidden[tokens.predicts], tokens.targets, TEMPERATURE)
        losses = _losses(tokens, scores.logprobs, owner, requests)
        if torch.isfinite(losses).all():
            torch.autograd.backward(losses.sum())
        _tell(learns, scores.logprobs, losses, owner, found, first)
        _measure(tokens, scores, owner, found)
    if len(told.rows):
        tokens = _tokens(tokens, told, datums)
        with torch.no_grad():
            logprobs = _quiet(policy, hidden.detach()[tokens.predicts], tokens.targets)
            losses = _losses(tokens, logprobs, owner, requests)
        _tell(told, logprobs, losses, owner, found, first)


def _places(batch: MicroBatch, datums: Sequence[Datum], chosen: Sequence[Array]) -> _Places:
    rows, cells, start = [np.zeros(0, np.int64)], [], 0
    for group in batch:
        at, shared = start + len(group.prompt), len(group.prompt)
        for member in group.members:
            flat = np.flatnonzero(chosen[member.number])
            position = flat // datums[member.number].targets.shape[1]
            rows.append(np.where(position < shared, start + position, at + position - shared))
            cells.append((member.number, flat))
            at += len(member.sample.response_ids)
        start = at
    return _Places(np.concatenate(rows), cells)


def _tokens(tokens: TokenBatch, places: _Places, datums: Sequence[Datum]) -> TokenBatch:
    """The same packed tokens; what is scored are the cells of `places`."""

    def gathered(name: str) -> Tensor:
        parts = [getattr(datums[n], name).ravel()[flat] for n, flat in places.cells]
        return torch.from_numpy(np.concatenate(parts))

    numbers = np.concatenate([np.full(len(flat), n) for n, flat in places.cells])
    return dataclasses.replace(
        tokens,
        predicts=torch.from_numpy(places.rows),
        targets=gathered("targets"),
        rollout_logprobs=gathered("rollout"),
        advantages=gathered("advantages"),
        weights=gathered("weights"),
        sequence=torch.from_numpy(numbers),
    )


def _losses(
    tokens: TokenBatch, logprobs: Tensor, owner: Sequence[int], requests: Sequence[Request]
) -> Tensor:
    """Of each cell, by the loss of its request; one call for each distinct loss."""
    specs = list(dict.fromkeys(request.spec for request in requests))
    if len(specs) == 1:
        return specs[0].losses(_loss_tokens(tokens, logprobs))
    kinds = torch.tensor([specs.index(requests[i].spec) for i in owner])[tokens.sequence]
    order, parts = [], []
    for kind, spec in enumerate(specs):
        index = torch.nonzero(kinds == kind)[:, 0]
        if len(index):
            order.append(index)
            parts.append(spec.losses(_loss_tokens(tokens, logprobs, index)))
    return torch.cat(parts)[torch.argsort(torch.cat(order))]


def _loss_tokens(tokens: TokenBatch, logprobs: Tensor, index: Tensor | None = None) -> LossTokens:
    values = (
        logprobs,
        tokens.rollout_logprobs,
        tokens.advantages,
        tokens.weights,
        tokens.rollout_logprobs,
        tokens.sequence,
    )
    return LossTokens(*(values if index is None else (value[index] for value in values)))


def _tell(
    places: _Places,
    logprobs: Tensor,
    losses: Tensor,
    owner: Sequence[int],
    found: Sequence[Scored],
    first: Array,
) -> None:
    told, lost, at = logprobs.detach().numpy(), losses.detach().numpy(), 0
    for number, flat in places.cells:
        one, end = found[owner[number]], at + len(flat)
        local = number - int(first[owner[number]])
        one.logprobs[local].reshape(-1)[flat] = told[at:end]
        one.losses[local].reshape(-1)[flat] = lost[at:end]
        one.loss += float(lost[at:end].sum(dtype=np.float64))
        at = end


def _measure(
    tokens: TokenBatch, scores: Scores, owner: Sequence[int], found: Sequence[Scored]
) -> None:
    ratios = (scores.logprobs.detach() - tokens.rollout_logprobs).exp().numpy()
    owners = np.array(owner)[tokens.sequence.numpy()]
    for i in np.unique(owners):
        one, mine = found[i], owners == i
        one.num_trained += int(mine.sum())
        one.ratio_max = max(one.ratio_max, float(ratios[mine].max()))


def _quiet(policy: Policy, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities without a gradient, some rows of logits at a time."""
    parts = []
    for start in range(0, len(rows), ROWS):
        logits = rows[start : start + ROWS] @ policy.decoder.head_weight.T
        chosen = logits.gather(1, targets[start : start + ROWS, None])[:, 0]
        parts.append(chosen - logits.logsumexp(-1))
    return torch.cat(parts)
