"""New weights from rank 0 to every engine, each of which proves that it holds them.

    Publication(group, engines, sync, run_dir).publish(name, version, canary, freeze=)

`publish` goes by Ray's object store: engines fetch from rank 0's machine, and one that is started
anew fetches the same. The other ways are those of `train/sync`; an engine that dies on the way is
left out, and gets the weights from rank 0 when it comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from evolute.engine.replicas.agreement import Kept
from evolute.train.ray.calls import GroupError
from evolute.train.ray.channel import Spec
from evolute.train.ray.engines import Held
from evolute.train.settings_ray import SyncConfig
from evolute.train.sync import PublishProof
from evolute.train.sync.loopback import file_of, folder_of, remove
from evolute.train.sync.proof import check_canary, check_digest
from evolute.types import OutOfCapacity, TrainingError

SETTLE_S = 5.0  # within which the death of an engine is noticed
POLL_S = 0.1
RETRY_S = 0.5  # an engine comes up meanwhile


@runtime_checkable
class Ranks(Protocol):
    """As much of the trainer group as is needed."""

    def ask(self, method: str, *args: Any, timeout_s: float = 0.0) -> list[Any]: ...
    def ask_first(self, method: str, *args: Any, timeout_s: float = 0.0) -> Any: ...
    def reference(self, method: str, *args: Any) -> Any: ...


@runtime_checkable
class Engines(Protocol):
    """As much of `RolloutEngines` as is needed."""

    def steady(self) -> AbstractContextManager[None]: ...
    def living(self) -> dict[int, Any]: ...
    def have_died(self, actors: dict[int, Any]) -> list[int]: ...
    def later(self, fetch: Callable[[], tuple[str | None, Kept]]) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def install(
        self, name: str | None, kept: Kept, canary: Sequence[int], timeout_s: float
    ) -> dict[int, Held]: ...


class Publication:
    """`version` is the last one that every engine has proved."""

    def __init__(self, ranks: Ranks, engines: Engines, sync: SyncConfig, run_dir: Path) -> None:
        self._ranks, self._engines, self._sync = ranks, engines, sync
        self.version = -1
        self._place: Path | None = None
        if sync.way == "delta":
            self._place = folder_of(sync, run_dir).absolute()
        elif sync.way == "shared_memory":
            self._place = file_of(sync).absolute()

    def publish(
        self, name: str | None, version: int, canary: tuple[int, ...], *, freeze: bool
    ) -> PublishProof:
        """Raises TrainingError that names the engine without proof."""
        expected = self._ranks.ask("prepare", version, list(canary))[0]
        self.version = version
        if self._sync.way == "publish":
            return self._by_store(name, version, canary, expected, freeze=freeze)
        return self._by_way(name, version, canary)

    def close(self) -> None:
        """What lay on the way goes too."""
        if self._place is not None:
            remove(self._place)

    # -- internals ---------------------------------------------------------------

    def _by_store(
        self,
        name: str | None,
        version: int,
        canary: tuple[int, ...],
        expected: str,
        *,
        freeze: bool,
    ) -> PublishProof:
        kept = Kept(self._ranks.reference("kept", version), version)
        engines, timeout_s = self._engines, self._sync.timeout_s
        if freeze:
            _if_any(engines.pause)
        try:
            found = self._installed(name, kept, canary, timeout_s)
            for index, held in found.items():
                check_digest(version, f"engine {index}", held.fingerprint, expected)
        finally:
            if freeze:
                _if_any(engines.resume)
        ours = torch.tensor(self._ranks.ask_first("canary", version))
        differences = [
            check_canary(version, f"engine {i}", ours, torch.tensor(h.logprobs), h.precision)
            for i, h in found.items()
        ]
        return PublishProof(version, expected, max(differences), len(found))

    def _installed(
        self, name: str | None, kept: Kept, canary: tuple[int, ...], timeout_s: float
    ) -> dict[int, Held]:
        """While no engine lives the next one is waited for. Rank 0, from which they fetch, may be
        the cause: then that is told."""
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._engines.install(name, kept, canary, timeout_s)
            except OutOfCapacity as error:
                self._ranks.ask_first("canary", kept.version)
                if time.monotonic() >= until_s:
                    text = f"weights {kept.version} were not published: {error}"
                    raise TrainingError(text) from error
            time.sleep(RETRY_S)

    def _by_way(self, name: str | None, version: int, canary: tuple[int, ...]) -> PublishProof:
        """Among the engines that live; again among the others when one dies meanwhile."""
        engines, why = self._engines, "no engine lives"
        until_s = time.monotonic() + self._sync.timeout_s
        while time.monotonic() < until_s:
            with engines.steady():
                proofs, why = self._try(name, version, canary)
                if proofs:
                    engines.later(partial(self._kept, name, version))
                    difference = max(proof.canary_abs_diff for proof in proofs)
                    return PublishProof(version, proofs[0].fingerprint, difference, len(proofs))
            time.sleep(RETRY_S)
        raise TrainingError(f"weights {version} were not published: {why}")

    def _try(
        self, name: str | None, version: int, canary: tuple[int, ...]
    ) -> tuple[list[PublishProof], str]:
        """The proofs; or none and why, when an engine has died or none lives."""
        actors = self._engines.living()
        if not actors:
            return [], "no engine lives"
        try:
            return self._send(name, version, canary, actors), ""
        except GroupError as error:
            if not self._somebody_died(actors):
                raise
            return [], str(error)

    def _kept(self, name: str | None, version: int) -> tuple[str | None, Kept]:
        return name, Kept(self._ranks.reference("kept", version), version)

    def _send(
        self, name: str | None, version: int, canary: Sequence[int], actors: dict[int, Any]
    ) -> list[PublishProof]:
        sync, members = self._sync, ""
        if sync.way == "broadcast":  # a group is made of those that take part
            members = "/".join(f"{index}:{actor}" for index, actor in actors.items())
        place = str(self._place or "")
        spec = Spec(sync.way, place, sync.timeout_s, sync.base_every, members, name=name)
        args = (version, list(canary), list(actors.values()), spec)
        found: list[PublishProof] = self._ranks.ask_first(
            "send", *args, timeout_s=2 * sync.timeout_s
        )
        return found

    def _somebody_died(self, actors: dict[int, Any]) -> bool:
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s:
            if self._engines.have_died(actors):
                return True
            time.sleep(POLL_S)
        return False


# -- internals ---------------------------------------------------------------


def _if_any(call: Callable[[], None]) -> None:
    """Of engines that live; where none does there is nothing to stand still."""
    with suppress(OutOfCapacity):
        call()
