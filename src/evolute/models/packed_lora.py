"""How does an adapter lie in memory that others own? As one run of float32, cut anywhere.

    pack(weights) -> PackedLora        rows of A and of B^T, ready to be copied in one go
    packed.unpack() -> LoraWeights     the same values, as views
    packed.num_bytes, packed.waste     what it takes, and how much of that is padding

Layer by layer, and in a layer by what is multiplied: the A rows of q, k and v lie one below the
other, so that one pass over their common input makes all their low-rank parts; then their B^T
rows; then o; gate and up together; down. A row is padded to whole vectors of 16 floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evolute.models.lora import MODULES, LoraConfig, LoraWeights

Float32 = NDArray[np.float32]
GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
PAD = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One changed linear layer: where its rows begin, in floats."""

    layer: int
    module: str
    rank: int
    inputs: int
    outputs: int
    a: int
    b: int


@dataclass(frozen=True, slots=True, eq=False)
class PackedLora:
    """An adapter as the kernels read it. The scale is not folded in: values are the trainer's."""

    config: LoraConfig
    flat: Float32
    parts: tuple[Part, ...]

    @property
    def scale(self) -> float:
        return self.config.scale

    @property
    def num_bytes(self) -> int:
        return self.flat.nbytes

    @property
    def waste(self) -> float:
        """Share of the bytes that is padding of rows."""
        used = sum(part.rank * (part.inputs + part.outputs) for part in self.parts)
        return 1 - used / len(self.flat) if len(self.flat) else 0.0

    def table(self) -> NDArray[np.int64]:
        """[P, 7]: layer, module, rank, inputs, outputs, a, b."""
        rows = [
            (p.layer, MODULES.index(p.module), p.rank, p.inputs, p.outputs, p.a, p.b)
            for p in self.parts
        ]
        return np.array(rows, np.int64).reshape(-1, 7)

    def unpack(self) -> LoraWeights:
        """Views of `flat`; whoever writes to them writes to the adapter."""
        return unpack(self.config, self.parts, self.flat)


def pack(weights: LoraWeights) -> PackedLora:
    """Copy an adapter's values. A and B must have the same rank."""
    parts, size = _lay_out(weights)
    flat = np.zeros(size, np.float32)
    for part in parts:
        a, b = (
            half.detach().float().cpu().numpy() for half in weights.tensors[part.layer, part.module]
        )
        _rows(flat, part.a, part.rank, part.inputs)[:] = a
        _rows(flat, part.b, part.rank, part.outputs)[:] = b.T
    return PackedLora(weights.config, flat, tuple(parts))


def unpack(config: LoraConfig, parts: tuple[Part, ...], flat: Float32) -> LoraWeights:
    """The adapter whose values lie in `flat`."""
    import torch

    tensors = {}
    for part in parts:
        a = torch.from_numpy(_rows(flat, part.a, part.rank, part.inputs))
        b = torch.from_numpy(_rows(flat, part.b, part.rank, part.outputs)).T
        tensors[part.layer, part.module] = (a, b)
    return LoraWeights(config, tensors)


# -- internals ---------------------------------------------------------------


def _lay_out(weights: LoraWeights) -> tuple[list[Part], int]:
    parts, at = list[Part](), 0
    for layer in sorted({layer for layer, _ in weights.tensors}):
        for group in GROUPS:
            found = [
                (module, *weights.tensors[layer, module])
                for module in group
                if (layer, module) in weights.tensors and len(weights.tensors[layer, module][0])
            ]
            b_at = at + sum(len(a) * _pitch(a.shape[1]) for _, a, _ in found)
            for module, a, b in found:
                rank, inputs, outputs = len(a), a.shape[1], b.shape[0]
                parts.append(Part(layer, module, rank, inputs, outputs, at, b_at))
                at += rank * _pitch(inputs)
                b_at += rank * _pitch(outputs)
            at = b_at
    return parts, at


def _pitch(width: int) -> int:
    return -(-width // PAD) * PAD


def _rows(flat: Float32, start: int, count: int, width: int) -> Float32:
    """`count` rows of `width` floats from `start` on."""
    pitch = _pitch(width)
    return flat[start : start + count * pitch].reshape(count, pitch)[:, :width]
