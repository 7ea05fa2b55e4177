"""Weights as bytes with a description of them, and back: what every way between processes carries.

    pack(weights, version) -> Packed           an adapter or a model, in a fixed order
    unpack(packed) -> LoraWeights | ModelWeights
    packed.check()                             WireError unless the bytes are those of the manifest
    manifest.to_json(), Manifest.from_json(text)

The manifest names each tensor with type, shape and place, the digest of all bytes, and the
fingerprint that the engine must report once it holds them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evolute.models import LoraConfig, LoraWeights, ModelWeights
from evolute.types import WireError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.half)
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor's place in the bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        size: int = DTYPES[self.dtype].itemsize
        return math.prod(self.shape) * size


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the bytes are. `lora` is None for the weights of a whole model."""

    version: int
    fingerprint: str
    digest: str  # sha256 of all bytes
    entries: tuple[Entry, ...]
    lora: LoraConfig | None = None

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Raises WireError for anything that is not a whole manifest."""
        try:
            found: Mapping[str, Any] = json.loads(text)
            entries = tuple(
                Entry(e["name"], e["dtype"], tuple(e["shape"]), e["offset"])
                for e in found["entries"]
            )
            lora = found["lora"]
            config = LoraConfig(**{**lora, "targets": tuple(lora["targets"])}) if lora else None
            manifest = cls(found["version"], found["fingerprint"], found["digest"], entries, config)
            _check_places(manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(
                f"a manifest of weights is damaged: {error!r}; send it anew."
            ) from error
        return manifest


@dataclass(frozen=True, slots=True)
class Packed:
    """A manifest with its bytes."""

    manifest: Manifest
    data: memoryview

    def check(self) -> None:
        """Raises WireError unless the bytes are whole."""
        manifest, size = self.manifest, len(self.data)
        if size != manifest.num_bytes or digest(self.data) != manifest.digest:
            raise WireError(
                f"weights of version {manifest.version} arrived torn: {size} of "
                f"{manifest.num_bytes} bytes, or with others than were sent; send them again."
            )


def pack(weights: LoraWeights | ModelWeights, version: int) -> Packed:
    """A copy of the weights as bytes."""
    named = _named(weights)
    entries: list[Entry] = []
    offset = 0
    for name, tensor in named:
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise WireError(f"{name} is of type {dtype}; only {', '.join(DTYPES)} travel.")
        entries.append(Entry(name, dtype, tuple(tensor.shape), offset))
        offset += entries[-1].num_bytes
    data = bytearray(offset)
    for entry, (_, tensor) in zip(entries, named):
        into = torch.frombuffer(data, dtype=torch.uint8, count=entry.num_bytes, offset=entry.offset)
        into.copy_(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
    lora = weights.config if isinstance(weights, LoraWeights) else None
    view = memoryview(data)
    manifest = Manifest(version, weights.fingerprint(), digest(view), tuple(entries), lora)
    return Packed(manifest, view)


def unpack(packed: Packed) -> LoraWeights | ModelWeights:
    """The weights, as copies that do not need the bytes any more. Raises WireError as `check`."""
    packed.check()
    tensors = {entry.name: _tensor(packed.data, entry) for entry in packed.manifest.entries}
    if packed.manifest.lora is None:
        return ModelWeights(tensors)
    pairs = {}
    for name, tensor in tensors.items():
        layer, module, part = name.split(".")
        if part == "A":
            pairs[int(layer), module] = (tensor, tensors[f"{layer}.{module}.B"])
    return LoraWeights(packed.manifest.lora, pairs)


def digest(data: memoryview | bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


# -- internals ---------------------------------------------------------------


def _named(weights: LoraWeights | ModelWeights) -> list[tuple[str, torch.Tensor]]:
    if isinstance(weights, LoraWeights):
        return weights.named_parameters()
    found = []
    for name in sorted(weights):
        weight = weights[name]
        found.append((name, weight if isinstance(weight, torch.Tensor) else weights.dense(name)))
    return found


def _tensor(data: memoryview, entry: Entry) -> torch.Tensor:
    part = bytearray(data[entry.offset : entry.offset + entry.num_bytes])
    return torch.frombuffer(part, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def _check_places(manifest: Manifest) -> None:
    offset = 0
    for entry in manifest.entries:
        if entry.dtype not in DTYPES or min(entry.shape, default=1) < 1 or entry.offset != offset:
            raise ValueError(f"{entry.name} has no such place, type or shape")
        offset += entry.num_bytes
