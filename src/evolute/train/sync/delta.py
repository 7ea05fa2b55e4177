"""Weights as what changed in them, through files: each shard its own difference, no rank needs all.

    sender = DeltaSender(folder, shard, num_shards, base_every)
    sender.send(packed)                            this shard's file, renamed into place
    sender.commit(version, timeout_s)              on one rank, once all shards are there; a single
                                                   shard does so by itself
    receiver = DeltaReceiver(folder); receiver.receive(version, timeout_s)

A delta holds, for each tensor that changed, new XOR old, compressed. Versions form a chain: a delta
names the version before, and a whole snapshot stands at its start and after every `base_every`. A
late joiner takes the newest snapshot that is not after the version and replays the chain to it. The
digest of all bytes is checked at the end of each link, so that they are equal or nothing is loaded.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from evolute.train.sync.wire import Entry, Manifest, Packed, digest
from evolute.types import TrainingError, WireError

POLL_S = 0.01
LEVEL = 1  # of zlib: speed counts, and the differences are mostly zeros


class DeltaSender:
    """One shard's writer: tensors `shard`, `shard` + num_shards, ... of the manifest."""

    def __init__(
        self, folder: Path, shard: int = 0, num_shards: int = 1, base_every: int = 16
    ) -> None:
        self._folder, self._shard, self._num_shards = folder, shard, num_shards
        self._base_every = base_every
        self._old: dict[str, bytes] = {}
        self._before: int | None = None
        self._since_base = 0
        self._manifest: Manifest | None = None
        self.sent_bytes = 0
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, packed: Packed) -> None:
        """Write this shard of a version. The first one, and every `base_every`-th, is whole."""
        manifest = packed.manifest
        mine = manifest.entries[self._shard :: self._num_shards]
        is_base = self._before is None or self._since_base >= self._base_every
        is_base = is_base or self._old.keys() != {entry.name for entry in mine}
        pieces, body = [], bytearray()
        for entry in mine:
            new = bytes(packed.data[entry.offset : entry.offset + entry.num_bytes])
            old = b"" if is_base else self._old[entry.name]
            if is_base or new != old:
                part = zlib.compress(new if is_base else xor(new, old), LEVEL)
                pieces.append({"name": entry.name, "size": len(part)})
                body += part
            self._old[entry.name] = new
        head = {
            "version": manifest.version,
            "before": None if is_base else self._before,
            "pieces": pieces,
            "digest": digest(body),
        }
        line = json.dumps(head).encode() + b"\n"
        _write(self._folder / _shard_name(manifest.version, self._shard), line + body)
        self.sent_bytes = len(line) + len(body)
        self._before, self._manifest = manifest.version, manifest
        self._since_base = 1 if is_base else self._since_base + 1
        if self._num_shards == 1:
            self.commit(manifest.version)

    def commit(self, version: int, timeout_s: float = 60.0) -> None:
        """Announce a version once all its shards are there. Raises TrainingError if one is not."""
        if self._manifest is None or self._manifest.version != version:
            raise TrainingError(f"version {version} was not the last that this shard has sent.")
        until_s = time.monotonic() + timeout_s
        names = [_shard_name(version, shard) for shard in range(self._num_shards)]
        while missing := [name for name in names if not (self._folder / name).exists()]:
            if time.monotonic() >= until_s:
                raise TrainingError(
                    f"{', '.join(missing)} did not come within {timeout_s:g} s; version {version} "
                    "is not announced."
                )
            time.sleep(POLL_S)
        heads = [_head(self._folder / name)[0] for name in names]
        said = {"manifest": json.loads(self._manifest.to_json()), "shards": self._num_shards}
        said |= {"before": heads[0]["before"], "digests": [head["digest"] for head in heads]}
        _write(self._folder / _manifest_name(version), json.dumps(said).encode())


class DeltaReceiver:
    """Keeps the last version's bytes; joins at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._version: int | None = None
        self._tensors: dict[str, bytes] = {}

    def receive(self, version: int, timeout_s: float) -> Packed:
        """Wait for the version, and apply what lies between. Raises TrainingError when it does not
        come, WireError when a link of the chain is missing or torn; what was held stays."""
        until_s = time.monotonic() + timeout_s
        while not (self._folder / _manifest_name(version)).exists():
            if time.monotonic() >= until_s:
                raise TrainingError(
                    f"weights {version} did not come through {self._folder} in {timeout_s:g} s."
                )
            time.sleep(POLL_S)
        tensors = dict(self._tensors)
        manifest: Manifest | None = None
        for link in self._chain(version):
            manifest = self._apply(link, tensors)
        if manifest is None:  # it is the one that is held
            manifest = self._read(version)[0]
        data = b"".join(tensors[entry.name] for entry in manifest.entries)
        packed = Packed(manifest, memoryview(data))
        packed.check()
        self._tensors, self._version = tensors, version
        return packed

    # -- internals ---------------------------------------------------------------

    def _chain(self, version: int) -> list[int]:
        """Versions to apply, in order: from the one that is held, or from a snapshot."""
        links: list[int] = []
        at: int | None = version
        while at is not None and at != self._version:
            links.append(at)
            at = self._read(at)[1]
        return links[::-1]

    def _read(self, version: int) -> tuple[Manifest, int | None, list[str]]:
        path = self._folder / _manifest_name(version)
        try:
            said = json.loads(path.read_bytes())
            manifest = Manifest.from_json(json.dumps(said["manifest"]))
            before, digests = said["before"], said["digests"]
            if len(digests) != said["shards"] or manifest.version != version:
                raise ValueError("it contradicts itself")
        except FileNotFoundError:
            raise WireError(
                f"the chain is broken: {path.name} is missing; publish a whole snapshot."
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise WireError(f"{path.name} is damaged: {error!r}") from error
        return manifest, before, digests

    def _apply(self, version: int, tensors: dict[str, bytes]) -> Manifest:
        """Change `tensors` from the version before to this one."""
        manifest, before, digests = self._read(version)
        entries = {entry.name: entry for entry in manifest.entries}
        if before is None:
            tensors.clear()
        for shard, expected in enumerate(digests):
            path = self._folder / _shard_name(version, shard)
            head, body = _head(path)
            if (head["version"], head["before"]) != (version, before) or digest(body) != expected:
                raise WireError(f"{path.name} is torn, or of another version; nothing was loaded.")
            _apply_pieces(path, head["pieces"], body, entries, tensors, is_base=before is None)
        missing = entries.keys() - tensors.keys()
        if missing:
            raise WireError(f"version {version} lacks {min(missing)!r}; its snapshot is not whole.")
        return manifest


def xor(new: bytes, old: bytes) -> bytes:
    """Byte by byte; its own inverse. Both have one length."""
    a, b = np.frombuffer(new, np.uint8), np.frombuffer(old, np.uint8)
    return np.bitwise_xor(a, b).tobytes()


# -- internals ---------------------------------------------------------------


def _apply_pieces(
    path: Path,
    pieces: list[dict[str, Any]],
    body: bytes,
    entries: dict[str, Entry],
    tensors: dict[str, bytes],
    *,
    is_base: bool,
) -> None:
    offset = 0
    for piece in pieces:
        name, size = str(piece["name"]), int(str(piece["size"]))
        try:
            part = zlib.decompress(body[offset : offset + size])
        except zlib.error as error:
            raise WireError(f"{path.name}: {name} cannot be decompressed ({error}).") from error
        if name not in entries or len(part) != entries[name].num_bytes:
            raise WireError(f"{path.name}: {name} has another size than the manifest says.")
        if not is_base and len(tensors.get(name, b"")) != len(part):
            raise WireError(f"{path.name} changes {name}, which the version before does not have.")
        tensors[name] = part if is_base else xor(part, tensors[name])
        offset += size


def _head(path: Path) -> tuple[dict[str, Any], bytes]:
    try:
        line, _, body = path.read_bytes().partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        return head, body
    except FileNotFoundError:
        raise WireError(f"the chain is broken: {path.name} is missing.") from None
    except ValueError as error:
        raise WireError(f"{path.name} is torn: {error}") from error


def _shard_name(version: int, shard: int) -> str:
    return f"delta-{version:08d}-{shard:04d}.bin"


def _manifest_name(version: int) -> str:
    return f"version-{version:08d}.json"


def _write(path: Path, data: bytes) -> None:
    """Whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
