"""Which tenants' models are in memory, and how does one come back from disk?

    Models(base, model_config, store, states, config)
    .get(model_id) -> TenantModel       made, loaded, and brought to where it was
    .keep(row, tenant) -> its new state's number      on disk; older ones go
    .forget(model_id)

A model is its last state on disk and the requests that were done since: those are done again, in
the same company as the first time, so it is the same to the bit on a CPU. A model that is not
used makes room for others in the same way.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import groupby

from evolute.models import LoraConfig, LoraWeights, ModelConfig
from evolute.train.policy import Policy
from evolute.train.tinker import passes
from evolute.train.tinker.checkpoints import Checkpoints, TinkerPath
from evolute.train.tinker.records import Future, Kind, Model, Status
from evolute.train.tinker.settings import ServiceConfig
from evolute.train.tinker.store import Store
from evolute.train.tinker.tenant import AdamParams, TenantModel
from evolute.types import CheckpointError, TrainingError

Prepare = Callable[[Future], passes.Request]


class Models:
    """Used from the thread that trains."""

    def __init__(
        self,
        base: Policy,
        model: ModelConfig,
        store: Store,
        states: Checkpoints,
        config: ServiceConfig,
        prepare: Prepare,
    ) -> None:
        self._base, self._model, self._store = base, model, store
        self._states, self._config, self._prepare = states, config, prepare
        self._resident: OrderedDict[str, TenantModel] = OrderedDict()

    def get(self, row: Model) -> TenantModel:
        """Raises CheckpointError when its state is gone or damaged."""
        tenant = self._resident.get(row.id)
        if tenant is None:
            tenant = self._restored(row)
            self._resident[row.id] = tenant
            while len(self._resident) > self._config.max_resident:
                self._resident.popitem(last=False)
        self._resident.move_to_end(row.id)
        return tenant

    def keep(self, row: Model, tenant: TenantModel) -> int:
        """Write a state; the caller notes its number together with what led to it."""
        number = row.state + 1
        self._states.write(
            state_path(row.id, number),
            tenant.snapshot(),
            optimizer=tenant.optimizer_state(),
            base_model=row.base_model,
        )
        return number

    def drop_state(self, model_id: str, number: int) -> None:
        if number > 0:
            self._states.delete(state_path(model_id, number))

    def forget(self, model_id: str) -> None:
        """Out of memory; what is on disk stays."""
        self._resident.pop(model_id, None)

    @property
    def num_resident(self) -> int:
        return len(self._resident)

    # -- internals ---------------------------------------------------------------

    def _restored(self, row: Model) -> TenantModel:
        lora = LoraConfig(row.rank, float(row.extra["alpha"]), row.targets)
        tenant = TenantModel(self._base, LoraWeights.init(lora, self._model, row.seed))
        if row.state:
            weights, optimizer = self._states.read(state_path(row.id, row.state), is_optimizer=True)
            tenant.load(weights, optimizer)
        done = self._store.find(
            Future,
            "model_id = ? AND status = ? AND batch > 0 AND payload IS NOT NULL",
            row.id,
            Status.DONE,
        )
        done.sort(key=lambda future: (future.batch, future.number))
        for _, futures in groupby(done, key=lambda future: future.batch):
            self._again(tenant, list(futures))
        return tenant

    def _again(self, tenant: TenantModel, futures: Sequence[Future]) -> None:
        if futures[0].kind is Kind.STEP:
            tenant.step(adam_of(futures[0]))
            return
        requests = [self._prepare(future) for future in futures]
        found = tenant.accumulate(requests, self._config.micro_batch_tokens)
        for one in found:
            if isinstance(one, TrainingError):
                raise CheckpointError(f"the model cannot be brought back: {one}")


def adam_of(future: Future) -> AdamParams:
    values = json.loads(future.payload or b"{}")["adam_params"]
    values.pop("type", None)
    return AdamParams(**values)


def state_path(model_id: str, number: int) -> TinkerPath:
    """Of the model's state of that number, among the states."""
    return TinkerPath(model_id, "weights", f"state-{number}")
