"""Attention for groups of responses that share their prompt's keys and values.

    SharedPrefixAttention(micro_batch, sliding_window=None)      an `Attend`

Prompts see themselves; a response sees its prompt and itself. Sequences that share nothing are
padded to their like: buckets of similar lengths, one call each. Letters: P prompt tokens, G
responses of a group, L the longest of them, N all their tokens, H query and K kv heads, E width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from evolute.models import attend_one, attention
from evolute.train.rollouts.packing import MicroBatch

CALL = 64 * 64  # scores that take as long as one call more


class SharedPrefixAttention:
    """An `Attend`: prompts see themselves, responses see their prompt and themselves."""

    def __init__(self, batch: MicroBatch, sliding_window: int | None = None) -> None:
        self._groups = [
            _Group(len(g.prompt), [len(m.sample.response_ids) for m in g.members], sliding_window)
            for g in batch
        ]
        sizes = [group.size for group in self._groups]
        nothing_shared = all(group.is_alone for group in self._groups)
        self._rows = _Rows(sizes, sliding_window) if nothing_shared else None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._rows is not None:
            return self._rows.attend(q, k, v)
        sizes = [group.size for group in self._groups]
        parts = zip(self._groups, *(torch.split(x, sizes) for x in (q, k, v)))
        return torch.cat([out for group, *qkv in parts for out in group.attend(*qkv)])


class _Rows:
    """Sequences that share nothing: padded behind, where a causal mask hides it, to the longest of
    their bucket."""

    def __init__(self, sizes: list[int], window: int | None) -> None:
        self._window = window
        self._buckets: list[tuple[int, int]] = []  # sequences, and the longest of them
        starts, free = [0] * len(sizes), 0
        for members in buckets(sizes):
            longest = max(sizes[i] for i in members)
            self._buckets.append((len(members), longest))
            for i in members:
                starts[i], free = free, free + longest
        self._size = free
        ranges = [torch.arange(start, start + size) for start, size in zip(starts, sizes)]
        self._places = torch.cat(ranges)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = [
            attention(q_G, k_G, v_G, self._window).transpose(1, 2).flatten(0, 1)
            for q_G, k_G, v_G in zip(self._padded(q), self._padded(k), self._padded(v))
        ]
        flat = outs[0] if len(outs) == 1 else torch.cat(outs)
        out: Tensor = _Unpad.apply(flat, self._places)  # type: ignore[no-untyped-call]
        return out

    def _padded(self, x: Float[Tensor, "N H E"]) -> list[Float[Tensor, "G H L E"]]:
        padded: Tensor = _Pad.apply(x, self._places, self._size)  # type: ignore[no-untyped-call]
        parts = torch.split(padded, [count * longest for count, longest in self._buckets])
        return [
            part.view(*bucket, *x.shape[1:]).transpose(1, 2)
            for part, bucket in zip(parts, self._buckets)
        ]


def buckets(sizes: Sequence[int]) -> list[list[int]]:
    """Which sequences are computed in one call: the partition by length with the fewest scores,
    padding and calls counted. Each is in one bucket, and no shorter one than it in a longer one's.
    """
    lengths = tuple(sorted(set(sizes)))
    counts = tuple(sum(size == length for size in sizes) for length in lengths)
    ends = _cuts(lengths, counts)
    found = []
    for first, last in zip((0, *ends), ends):
        inside = set(lengths[first:last])
        found.append([i for i, size in enumerate(sizes) if size in inside])
    return found


@lru_cache(64)
def _cuts(lengths: tuple[int, ...], counts: tuple[int, ...]) -> tuple[int, ...]:
    """Ends of the buckets among ascending lengths, by dynamic programming over the last one."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for last in range(1, len(lengths) + 1):
        rows, choices = 0, []
        for first in reversed(range(last)):
            rows += counts[first]
            cost, ends = best[first]
            choices.append((cost + CALL + rows * lengths[last - 1] ** 2, (*ends, last)))
        best.append(min(choices))
    return best[-1][1]


class _Group:
    """One prompt and its responses: where they lie when padded to the longest."""

    def __init__(self, prompt: int, lengths: list[int], window: int | None) -> None:
        longest = max(lengths)
        self._window = window
        self.prompt, self.size = prompt, prompt + sum(lengths)
        self.is_alone = len(lengths) == 1
        self._places: Tensor | None = None
        if self.is_alone:
            return
        self._shape = (len(lengths), longest)
        row, column = prompt + torch.arange(longest)[:, None], torch.arange(prompt + longest)[None]
        self._mask = column <= row
        if window is not None:
            self._mask &= column > row - window
        if any(length != longest for length in lengths):
            starts = [row * longest for row in range(len(lengths))]
            self._places = torch.cat(
                [torch.arange(start, start + n) for start, n in zip(starts, lengths)]
            )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        """Outputs of all tokens, the prompt's first, in one or two parts."""
        if self.is_alone:  # one sequence, as it lies
            return [attend_one(q, k, v, self._window)]
        at = self.prompt
        own = attend_one(q[:at], k[:at], v[:at], self._window)
        q_G, k_G, v_G = (self._padded(x[at:]) for x in (q, k, v))
        keys = torch.cat([self._shared(k), k_G], dim=2)
        values = torch.cat([self._shared(v), v_G], dim=2)
        o_G = F.scaled_dot_product_attention(
            q_G, keys, values, attn_mask=self._mask, enable_gqa=True
        )
        flat = o_G.transpose(1, 2).flatten(0, 1)
        if self._places is None:
            return [own, flat]
        return [own, _Unpad.apply(flat, self._places)]  # type: ignore[no-untyped-call]

    def _padded(self, x: Float[Tensor, "N H E"]) -> Float[Tensor, "G H L E"]:
        groups, longest = self._shape
        if self._places is not None:
            x = _Pad.apply(x, self._places, groups * longest)  # type: ignore[no-untyped-call]
        return x.view(groups, longest, *x.shape[1:]).transpose(1, 2)

    def _shared(self, x: Tensor) -> Float[Tensor, "G K P E"]:
        return x[: self.prompt].transpose(0, 1).expand(self._shape[0], -1, -1, -1)


class _Pad(torch.autograd.Function):
    """Rows to their places among `size`, zeros elsewhere; one copy each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(size, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (places,) = ctx.saved_tensors
        return grads[0].index_select(0, places), None, None


class _Unpad(torch.autograd.Function):
    """The rows at `places`; nothing reads the others, so their gradient is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(x)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (places,) = ctx.saved_tensors
        (g,) = grads
        return g.new_zeros(ctx.size, *g.shape[1:]).index_copy_(0, places, g), None
