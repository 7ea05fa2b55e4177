"""What each kernel must compute, in plain torch: the oracle of the CPU and the GPU kernels.

    rms_norm(x, weight, eps, extra)               x += extra; its norm
    rotate_and_store(q, k, v, rotary, rows, pages)   rotary positions; keys and values to pages
    paged_attention(q, pages, rows)               causal, over pages; decode and prefill alike
    block_linear(x, weight, bias)                 a matrix of 4- or 8-bit codes
    round_activations(x)                          what the CPU kernels multiply codes with
    add_lora(outputs, x, pool, slot, rows, adapter)   adapters of any ranks, by sequence
    silu_mul(gate, up), token_logprobs(logits, token_ids, temperature)

All in float32 whatever the inputs are, results in the inputs' type. Slow on purpose: loops over
sequences, gathers, no tricks.

Letters: T tokens, B sequences, W pages in the widest page table, D model width, H query heads,
K kv heads, E head width, P pages, S slots of a page, N outputs, M inputs, R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

BLOCK = 32  # weights that share a scale and an offset
PITCH = 16  # floats of which rows of adapters are padded to a multiple


@dataclass(frozen=True, slots=True, eq=False)
class PagedRows:
    """Whose the rows of a step are, and where their sequences lie.

    Sequence b owns rows row_start[b] : row_start[b + 1]; its positions rise. max_rows and
    max_context bound rows and positions of any sequence; they are known without asking the GPU.
    """

    row_start: Int[Tensor, " B+1"]
    owner: Int[Tensor, " T"]  # the sequence of each row
    positions: Int[Tensor, " T"]
    page_table: Int[Tensor, "B W"]
    max_rows: int
    max_context: int

    @classmethod
    def of(
        cls, row_start: Int[Tensor, " B+1"], positions: Int[Tensor, " T"], page_table: Tensor
    ) -> PagedRows:
        """Fill in what follows from the others. int32, contiguous."""
        counts = row_start.diff()
        owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        most = int(counts.max()) if len(counts) else 0
        context = int(positions.max()) + 1 if len(positions) else 0
        whole = [x.to(torch.int32).contiguous() for x in (row_start, owner, positions, page_table)]
        return cls(whole[0], whole[1], whole[2], whole[3], most, context)

    def slots(self, page_size: int) -> Int[Tensor, " T"]:
        """Where each row's key lies: page * page_size + offset."""
        pages = self.page_table[self.owner.long(), self.positions.long() // page_size].long()
        return pages * page_size + self.positions % page_size


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Keys and values of one layer."""

    keys: Float[Tensor, "P S K E"]
    values: Float[Tensor, "P S K E"]

    @property
    def page_size(self) -> int:
        return self.keys.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class HeadNorm:
    """Norms of q and k before their rotation (Qwen3)."""

    q: Float[Tensor, " E"]
    k: Float[Tensor, " E"]
    eps: float


@dataclass(frozen=True, slots=True, eq=False)
class BlockWeight:
    """W[n, m] = scale[n, m / 32] * code[n, m] + offset[n, m / 32].

    8 bits: a code is a byte. 4 bits: byte j of a block's 16 holds code j below, code j + 16 above.
    """

    codes: UInt8[Tensor, "N C"]  # C is M, or M / 2
    scale: Float[Tensor, "N M/32"]
    offset: Float[Tensor, "N M/32"]
    bits: int

    @classmethod
    def pack(
        cls, codes: UInt8[Tensor, "N M"], scale: Tensor, offset: Tensor, bits: int
    ) -> BlockWeight:
        """From one code a byte. Raises ValueError for other widths and bits."""
        n, m = codes.shape
        if bits not in (4, 8) or m % BLOCK or scale.shape != (n, m // BLOCK):
            raise ValueError(
                f"codes {tuple(codes.shape)} with scales {tuple(scale.shape)} and {bits} bits: "
                "a width that is a multiple of 32, one scale a block, and 4 or 8 bits are needed."
            )
        if bits == 4:
            low, high = codes.view(n, -1, 2, BLOCK // 2).unbind(2)
            codes = (low | (high << 4)).flatten(1)
        return cls(codes.contiguous(), scale.contiguous(), offset.contiguous(), bits)

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.scale.shape[1] * BLOCK

    def dense(self) -> Float[Tensor, "N M"]:
        """The matrix in float32."""
        blocks = self.codes.view(len(self.codes), self.scale.shape[1], -1)
        if self.bits == 4:
            blocks = torch.cat([blocks & 15, blocks >> 4], -1)
        scale, offset = self.scale.float().unsqueeze(-1), self.offset.float().unsqueeze(-1)
        return (scale * blocks + offset).flatten(1)


@dataclass(frozen=True, slots=True, eq=False)
class AdapterPool:
    """Adapters as runs of floats, each cut into blocks that lie anywhere in `memory`.

    Float f of adapter x is memory[blocks[x, f // block] + f % block]. Its linear layer l has rows
    of A [R, M] from float parts[x, l, 1] on, and rows of B^T [R, N] from parts[x, l, 2] on, each
    padded to a multiple of 16 floats. R = parts[x, l, 0] is 0 where it leaves the layer alone.
    """

    memory: Float[Tensor, " F"]  # float32
    block: int  # floats
    blocks: Int[Tensor, "X C"]
    parts: Int[Tensor, "X L 3"]
    scale: Float[Tensor, " X"]
    max_rank: int

    def read(self, adapter: int, layer: int, which: int, width: int) -> Float[Tensor, "R W"]:
        """A (which = 1) or B^T (which = 2) of one linear layer."""
        rank, start = int(self.parts[adapter, layer, 0]), int(self.parts[adapter, layer, which])
        pitch = -(-width // PITCH) * PITCH
        at = start + torch.arange(rank * pitch, device=self.memory.device)
        found = self.memory[self.blocks[adapter, at // self.block].long() + at % self.block]
        return found.view(rank, pitch)[:, :width]


def rms_norm(
    x: Float[Tensor, "T D"], weight: Float[Tensor, " D"], eps: float, extra: Tensor | None = None
) -> Float[Tensor, "T D"]:
    """x / rms(x) * weight (Zhang and Sennrich 2019), after x += extra, in place."""
    if extra is not None:
        x += extra
    wide = x.float()
    inverse = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (wide * inverse * weight.float()).to(x.dtype)


def rotate_and_store(
    q: Float[Tensor, "T H E"],
    k: Float[Tensor, "T K E"],
    v: Float[Tensor, "T K E"],
    rotary: Float[Tensor, "C E"],
    rows: PagedRows,
    pages: Pages,
    norm: HeadNorm | None = None,
) -> Float[Tensor, "T H E"]:
    """q with its positions rotated in; k the same way, and v, to their slots.

    `rotary` holds [cos | sin] of each position (Su et al. 2021, halves not interleaved).
    """
    if norm is not None:
        q, k = rms_norm(q, norm.q, norm.eps), rms_norm(k, norm.k, norm.eps)
    cos, sin = rotary[rows.positions.long()].float().unsqueeze(1).chunk(2, -1)
    slots = rows.slots(pages.page_size)
    for to, x in ((pages.keys, _rotate(k, cos, sin)), (pages.values, v)):
        to.view(-1, *to.shape[2:])[slots] = x.to(to.dtype)
    return _rotate(q, cos, sin).to(q.dtype)


def paged_attention(
    q: Float[Tensor, "T H E"], pages: Pages, rows: PagedRows, window: int | None = None
) -> Float[Tensor, "T H E"]:
    """Each row sees the keys of its sequence at positions <= its own, and > its own - window."""
    out = torch.empty_like(q)
    heads = q.shape[1] // pages.keys.shape[2]
    for b, table in enumerate(rows.page_table.long()):
        mine = slice(int(rows.row_start[b]), int(rows.row_start[b + 1]))
        position_T1 = rows.positions[mine].long().unsqueeze(1)
        if not len(position_T1):
            continue
        length = int(position_T1.max()) + 1
        used = table[: -(-length // pages.page_size)]
        k_SHE, v_SHE = (
            x[used].flatten(0, 1)[:length].float().repeat_interleave(heads, 1)
            for x in (pages.keys, pages.values)
        )
        at_S = torch.arange(length, device=q.device)
        hidden_TS = at_S > position_T1
        if window is not None:
            hidden_TS |= at_S <= position_T1 - window
        score_HTS = torch.einsum("the,she->hts", q[mine].float(), k_SHE) / q.shape[2] ** 0.5
        weight_HTS = score_HTS.masked_fill(hidden_TS, float("-inf")).softmax(-1)
        out[mine] = torch.einsum("hts,she->the", weight_HTS, v_SHE).to(q.dtype)
    return out


def block_linear(
    x: Float[Tensor, "T M"], weight: BlockWeight, bias: Float[Tensor, " N"] | None = None
) -> Float[Tensor, "T N"]:
    """x W^T + bias."""
    y = x.float() @ weight.dense().T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def round_activations(x: Float[Tensor, "T M"], group: int = 1) -> Float[Tensor, "T M"]:
    """x as 8-bit codes stand for it: per row and `group` blocks of 32, scale = amax / 127, ties
    to even."""
    blocks = x.float().view(len(x), -1, group * BLOCK)
    top = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(top > 0, 127 / top, 0)
    return ((blocks * inverse).round() * (top / 127)).view(x.shape)


def add_lora(
    outputs: Sequence[Float[Tensor, "T N"]],
    x: Float[Tensor, "T M"],
    pool: AdapterPool,
    layer: int,
    rows: PagedRows,
    adapter: Int[Tensor, " B"],
) -> None:
    """y += scale (x A^T) B^T with each sequence's adapter (Hu et al. 2021); -1 for none.

    `outputs` are those of linear layers `layer`, `layer` + 1, ..., all of input x. In place.
    """
    for b, index in enumerate(adapter.tolist()):
        mine = slice(int(rows.row_start[b]), int(rows.row_start[b + 1]))
        for at, y in enumerate(outputs, layer):
            if index >= 0:
                low = x[mine].float() @ pool.read(index, at, 1, x.shape[1]).T
                extra = low @ pool.read(index, at, 2, y.shape[1]) * pool.scale[index]
                y[mine] += extra.to(y.dtype)


def silu_mul(gate: Float[Tensor, "T F"], up: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """silu(gate) * up."""
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def token_logprobs(
    logits: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], temperature: Float[Tensor, " T"]
) -> Float[Tensor, " T"]:
    """Log-probability of one token a row at the row's temperature, which is above 0."""
    scaled = logits.double() / temperature.double().unsqueeze(-1)
    return scaled.log_softmax(-1).gather(-1, token_ids.long().unsqueeze(-1))[:, 0].float()


# -- internals ---------------------------------------------------------------


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.float().chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
