"""Which adapters are loaded, in which version, and which cached pages belong to them.

A namespace of the prefix cache is (adapter name, version, salt): equal prompts under different
weights never share pages, and an update makes the old pages unreachable at once, even one that
comes under the version of the old one.

All adapters lie in host memory (`core.loader.store`); those in use lie in pages too, and the
placement decides which. Without paging the host's copy is what steps compute with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evolute.engine.core import EngineCore
from evolute.engine.scheduling import Namespace
from evolute.models import LoraWeights, ModelConfig, ModelWeights, PackedLora, pack
from evolute.types import GenerateRequest, RequestError, UnknownAdapter
from evolute.types.settings import nearest


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One loaded adapter."""

    name: str
    version: int
    fingerprint: str
    index: int
    rank: int = 0  # the largest
    num_pages: int = 0  # while it is in use
    num_bytes: int = 0  # in host memory


class AdapterTable:
    """Adapters by name; owned by the engine's thread."""

    def __init__(self, core: EngineCore, model: ModelConfig, weights: ModelWeights) -> None:
        self.base_version = 0
        self._core, self._model = core, model
        self._shapes = _shapes(weights)
        self._infos: dict[str, AdapterInfo] = {}

    def infos(self) -> dict[str, AdapterInfo]:
        return dict(self._infos)

    def resolve(self, request: GenerateRequest) -> tuple[int, Namespace]:
        """Index of the request's adapter (-1: none) and its namespace."""
        if request.adapter is None:
            return -1, (None, self.base_version, request.cache_salt)
        info = self._info(request.adapter)
        return info.index, (info.name, info.version, request.cache_salt)

    def load(self, name: str, weights: LoraWeights, version: int | None) -> AdapterInfo:
        """Load or replace. Raises RequestError, and then the version loaded before stays."""
        return self.install(name, self.prepare(name, weights), version)

    def prepare(self, name: str, weights: LoraWeights) -> PackedLora:
        """Check and copy an adapter; needs no engine's thread."""
        _check_adapter(name, weights, self._model)
        return pack(weights)

    def install(self, name: str, packed: PackedLora, version: int | None) -> AdapterInfo:
        """Between two steps. The old version's pages are forgotten, requests in flight go on with
        the new one. Raises RequestError."""
        old = self._infos.get(name)
        index = old.index if old else max((i.index for i in self._infos.values()), default=-1) + 1
        if version is None:
            version = old.version + 1 if old else 1
        num_pages = self._pages_for(packed)
        self._check_host_memory(name, packed, index)
        self._check_room(name, packed, num_pages, index)
        self._replace(name, index, packed, num_pages)
        rank = max((part.rank for part in packed.parts), default=0)
        digest = packed.unpack().fingerprint()
        info = AdapterInfo(name, version, digest, index, rank, num_pages, packed.num_bytes)
        self._infos[name] = info
        self._core.forget_weights(lambda n: n[0] == name, lambda n: (name, version, n[2]))
        return info

    def unload(self, name: str) -> None:
        info = self._info(name)
        if self._core.uses_adapter(info.index):
            raise RequestError(f"adapter {name!r} is in use; abort its requests or wait.")
        self._core.placement.remove_adapter(info.index)
        self._core.executor.drop_adapter(info.index)
        del self._infos[name], self._core.loader.store[info.index]
        self._core.forget_weights(lambda n: n[0] == name, lambda n: n)

    def load_base(self, weights: ModelWeights, version: int) -> str:
        """Replace the base weights: every cached page is of the past, the adapters' too."""
        _check_base(self._shapes, _shapes(weights))
        self._core.executor.set_weights(weights)
        self.base_version = version
        self._core.forget_weights(
            lambda n: True, lambda n: (None, version, n[2]) if n[0] is None else n
        )
        return weights.fingerprint()

    def read_weight(self, name: str, count: int) -> list[float] | list[list[float]]:
        """The first `count` rows of a base weight. Raises RequestError for an unknown name."""
        name = name.removeprefix("model.")
        if name not in self._shapes:
            raise RequestError(f"the model has no weight {name!r}. {nearest(name, self._shapes)}")
        found: list[float] | list[list[float]]
        found = self._core.executor.read_weight(name, count).tolist()
        return found

    def fingerprint(self, name: str) -> str:
        """Digest of the host's copy, from which pages are filled."""
        return self._core.loader.store[self._info(name).index].unpack().fingerprint()

    def _info(self, name: str) -> AdapterInfo:
        info = self._infos.get(name)
        if info is None:
            known = nearest(name, self._infos) if self._infos else "None is loaded."
            raise UnknownAdapter(f"no adapter {name!r} is loaded. {known}")
        return info

    def _pages_for(self, packed: PackedLora) -> int:
        """0 when adapters have memory of their own."""
        settings = self._core.settings
        if not settings.config.adapter_paging:
            return 0
        num_bytes = packed.num_bytes
        if settings.config.tensor_parallel > 1:
            from evolute.models.lora_shards import sharded_bytes

            num_bytes = sharded_bytes(packed, self._model, settings.config.tensor_parallel)
        return max(-(-num_bytes // settings.page_bytes), 1)

    def _check_host_memory(self, name: str, packed: PackedLora, index: int) -> None:
        loader, limit = self._core.loader, self._core.settings.config.adapter_host_mb
        old = loader.store.get(index)
        total = loader.num_bytes + packed.num_bytes - (old.num_bytes if old else 0)
        if limit and total > limit * MB:
            raise RequestError(
                f"with adapter {name!r} ({packed.num_bytes / MB:.1f} MB) all adapters take "
                f"{total / MB:.1f} MB of host memory, but engine.adapter_host_mb is {limit}; "
                "unload some or raise that setting."
            )

    def _check_room(self, name: str, packed: PackedLora, num_pages: int, index: int) -> None:
        """It must fit the pool, beside the longest request that uses it already."""
        settings = self._core.settings
        tokens = self._core.most_tokens(index)
        beside = max(-(-tokens // settings.config.page_size), 1)
        if num_pages and num_pages + beside > settings.num_pages:
            whom = f"requests in flight of {tokens} tokens" if tokens else "keys and values"
            page_mb = settings.page_bytes / MB
            raise RequestError(
                f"adapter {name!r} takes {num_pages} pages of {page_mb:.2f} MB "
                f"({packed.num_bytes / MB:.1f} MB), and {whom} {beside}, but the pool has "
                f"{settings.num_pages} ({settings.num_pages * page_mb:.1f} MB). Raise "
                "engine.memory_mb, lower the rank, or set engine.adapter_paging = false."
            )

    def _replace(self, name: str, index: int, packed: PackedLora, num_pages: int) -> None:
        store, placement = self._core.loader.store, self._core.placement
        old = store.get(index)
        store[index] = packed
        if not num_pages:
            self._core.executor.set_adapter(index, packed)
        elif not placement.resize_adapter(index, num_pages):
            assert old is not None, "what nobody uses needs no pages yet"
            store[index] = old
            raise RequestError(
                f"requests in flight use adapter {name!r}, whose new version takes {num_pages} "
                f"pages instead of {placement.adapters.size(index)}, and only "
                f"{placement.num_available} more can be had now; the version loaded before stays. "
                "Wait, or abort requests."
            )


# -- internals ---------------------------------------------------------------

MB = 2**20
Shapes = dict[str, tuple[int, ...]]


def _shapes(weights: Mapping[str, object]) -> Shapes:
    return {name: tuple(getattr(tensor, "shape", ())) for name, tensor in weights.items()}


def _check_base(ours: Shapes, theirs: Shapes) -> None:
    """Half-loaded weights would answer nonsense, so all is checked before anything is loaded."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise RequestError(
                f"weights {name!r} are {theirs.get(name, 'missing')}, but the engine's model has "
                f"{ours.get(name, 'none of that name')}; load weights of the same architecture."
            )


def _check_adapter(name: str, weights: LoraWeights, model: ModelConfig) -> None:
    for (layer, module), (a, b) in weights.tensors.items():
        outputs, inputs = model.linear_shape(module)
        fits = a.shape[1:] == (inputs,) and b.shape == (outputs, a.shape[0])
        if layer >= model.num_layers or not fits:
            raise RequestError(
                f"adapter {name!r}, layer {layer}, {module}: A {list(a.shape)} and B "
                f"{list(b.shape)} do not fit a model of {model.num_layers} layers with "
                f"A [rank, {inputs}] and B [{outputs}, rank]; was it trained on another model?"
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise RequestError(
                f"adapter {name!r}, layer {layer}, {module} holds values that are not finite; "
                "the version loaded before stays."
            )
