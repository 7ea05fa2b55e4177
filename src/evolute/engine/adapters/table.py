"""Which adapters are loaded, in which version, and which cached pages belong to them.

A namespace of the prefix cache is (adapter name, version, salt): equal prompts under different
weights never share pages, and an update makes the old pages unreachable at once, even one that
comes under the version of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evolute.engine.core import EngineCore
from evolute.engine.scheduling import Namespace
from evolute.models import LoraWeights, ModelConfig, ModelWeights
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
        """Load or replace; the engine owns `weights` from now on. Raises RequestError.

        The old version's pages are forgotten, requests in flight go on with the new one.
        """
        _check_adapter(name, weights, self._model)
        old = self._infos.get(name)
        index = old.index if old else max((i.index for i in self._infos.values()), default=-1) + 1
        if version is None:
            version = old.version + 1 if old else 1
        executor = self._core.executor
        executor.set_adapter(index, weights)
        info = AdapterInfo(name, version, executor.adapter_fingerprint(index), index)
        self._infos[name] = info
        self._core.forget_weights(lambda n: n[0] == name, lambda n: (name, version, n[2]))
        return info

    def unload(self, name: str) -> None:
        info = self._info(name)
        if self._core.uses_adapter(info.index):
            raise RequestError(f"adapter {name!r} is in use; abort its requests or wait.")
        self._core.executor.drop_adapter(info.index)
        del self._infos[name]
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
        return self._core.executor.adapter_fingerprint(self._info(name).index)

    def _info(self, name: str) -> AdapterInfo:
        info = self._infos.get(name)
        if info is None:
            known = nearest(name, self._infos) if self._infos else "None is loaded."
            raise UnknownAdapter(f"no adapter {name!r} is loaded. {known}")
        return info


# -- internals ---------------------------------------------------------------

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
        if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise RequestError(
                f"adapter {name!r}, layer {layer}, {module} holds values that are not finite; "
                "the version loaded before stays."
            )
