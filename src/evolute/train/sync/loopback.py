"""A way between processes, used within one: through its file and back.

Loopback(sync, run_dir, engine, name).publish(policy, version, canary) -> PublishProof
folder_of(sync, run_dir), file_of(sync)      where weights lie on their way
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from pathlib import Path

import torch

from evolute.train.policy import Policy
from evolute.train.settings_ray import SyncConfig
from evolute.train.sync.delta import DeltaReceiver, DeltaSender
from evolute.train.sync.proof import PublishProof, check_canary, check_digest
from evolute.train.sync.publish import LiveEngine
from evolute.train.sync.remote import EngineHolder, Receiver, Sender, answer
from evolute.train.sync.shared_memory import SharedMemoryReceiver, SharedMemorySender
from evolute.train.sync.wire import pack
from evolute.types import ConfigError, TrainingError


class Loopback:
    """Sender and receiver of `sync.way` side by side. What lies on the way goes with this."""

    def __init__(
        self, sync: SyncConfig, run_dir: Path, engine: LiveEngine, name: str | None
    ) -> None:
        self._timeout_s, self._holder = sync.timeout_s, EngineHolder(engine, name)
        self._sender: Sender
        self._receiver: Receiver
        if sync.way == "delta":
            place = folder_of(sync, run_dir)
            self._sender = DeltaSender(place, base_every=sync.base_every)
            self._receiver = DeltaReceiver(place)
        else:
            place = file_of(sync)
            self._sender, self._receiver = SharedMemorySender(place), SharedMemoryReceiver(place)
        weakref.finalize(self, remove, place)

    def publish(self, policy: Policy, version: int, canary: tuple[int, ...]) -> PublishProof:
        """Raises TrainingError when the weights did not arrive."""
        packed = pack(policy.snapshot(), version)
        self._sender.send(packed)
        asked = {"version": version, "canary": list(canary)}
        found = json.loads(answer(asked, self._receiver, self._holder, self._timeout_s))
        if "error" in found:
            raise TrainingError(f"weights {version} did not arrive: {found['error']}")
        name = self._holder.name
        check_digest(version, name, found["fingerprint"], packed.manifest.fingerprint)
        ours, theirs = policy.logprobs(torch.tensor(canary)), torch.tensor(found["logprobs"])
        difference = check_canary(version, name, ours, theirs, found["precision"])
        return PublishProof(version, found["fingerprint"], difference)


def folder_of(sync: SyncConfig, run_dir: Path) -> Path:
    """A fresh folder for the chain of a delta: what an earlier process left is no part of it."""
    above = Path(sync.folder) if sync.folder else run_dir / "weights"
    above.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="delta-", dir=above))


def file_of(sync: SyncConfig) -> Path:
    """A fresh file in memory for one writer."""
    above = Path(sync.folder or "/dev/shm")
    if not above.is_dir():
        raise ConfigError(f"{above} is no folder; set sync.folder to one in memory.")
    return above / f"evolute-weights-{os.getpid()}-{os.urandom(4).hex()}"


def remove(place: Path) -> None:
    """What lay on the way; of no effect when it is gone."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
