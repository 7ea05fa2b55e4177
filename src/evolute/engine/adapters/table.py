"""Which adapters are loaded, in which version, and which cached pages belong to them.

A namespace of the prefix cache is (adapter name, version, salt): equal prompts under different
weights never share pages, and an update makes the old pages unreachable at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evolute.engine.core import EngineCore
from evolute.engine.scheduling import Namespace
from evolute.models import LoraWeights, ModelWeights, load_peft
from evolute.types import GenerateRequest, RequestError, UnknownAdapter
from evolute.types.settings import nearest


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One loaded adapter."""

    name: str
    version: int
    fingerprint: str
    index: int


class AdapterTable:
    """Adapters by name; owned by the engine's thread."""

    def __init__(self, core: EngineCore) -> None:
        self.base_version = 0
        self._core = core
        self._infos: dict[str, AdapterInfo] = {}

    def infos(self) -> dict[str, AdapterInfo]:
        return dict(self._infos)

    def resolve(self, request: GenerateRequest) -> tuple[int, Namespace]:
        """Index of the request's adapter (-1: none) and its namespace."""
        if request.adapter is None:
            return -1, (None, self.base_version, request.cache_salt)
        info = self._infos.get(request.adapter)
        if info is None:
            known = nearest(request.adapter, self._infos) if self._infos else "None is loaded."
            raise UnknownAdapter(f"no adapter {request.adapter!r} is loaded. {known}")
        return info.index, (info.name, info.version, request.cache_salt)

    def load(
        self, name: str, weights: LoraWeights | str | Path, version: int | None
    ) -> AdapterInfo:
        """Load or replace; the old version's pages are forgotten, requests in flight rebound."""
        if not isinstance(weights, LoraWeights):
            weights = load_peft(weights)
        old = self._infos.get(name)
        index = old.index if old else max((i.index for i in self._infos.values()), default=-1) + 1
        if version is None:
            version = old.version + 1 if old else 1
        self._core.executor.set_adapter(index, weights.clone())
        info = AdapterInfo(name, version, self._core.executor.adapter_fingerprint(index), index)
        self._infos[name] = info
        self._rebind(name, version)
        return info

    def unload(self, name: str) -> None:
        info = self._infos.get(name)
        if info is None:
            raise UnknownAdapter(f"no adapter {name!r} is loaded.")
        if self._core.uses_adapter(info.index):
            raise RequestError(f"adapter {name!r} is in use; abort its requests or wait.")
        self._core.executor.drop_adapter(info.index)
        del self._infos[name]
        self._core.drop_namespaces(lambda n: n[0] == name)

    def load_base(self, weights: ModelWeights, version: int) -> str:
        """Replace the base weights: every cached page is of the past."""
        self._core.executor.set_weights(weights)
        self.base_version = version
        self._core.flush()
        self._core.rebind(lambda n: (n[0], version, n[2]) if n[0] is None else n)
        return weights.fingerprint()

    def fingerprint(self, name: str) -> str:
        if name not in self._infos:
            raise UnknownAdapter(f"no adapter {name!r} is loaded.")
        return self._core.executor.adapter_fingerprint(self._infos[name].index)

    def _rebind(self, name: str, version: int) -> None:
        self._core.drop_namespaces(lambda n: n[0] == name and n[1] != version)
        self._core.rebind(lambda n: (name, version, n[2]) if n[0] == name else n)
