"""What requests do that are neither a pass nor a step: make, save, load, unload a model.

    Actions(...).do(row, future) -> Outcome

Files are written first and noted with the request's end: a process that dies between the two
writes them again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

from evolute.models import LoraWeights
from evolute.train.tinker import results
from evolute.train.tinker.checkpoints import Checkpoints, TinkerPath, check_name, parse
from evolute.train.tinker.models import Models
from evolute.train.tinker.outcome import Outcome
from evolute.train.tinker.records import Checkpoint, Future, Kind, Model, Sampler
from evolute.train.tinker.samplers import Samplers
from evolute.train.tinker.store import Store
from evolute.types import RequestError

Await = Callable[[Coroutine[Any, Any, None]], None]  # runs it on the service's loop to its end
INFLIGHT = "inflight"


class Actions:
    """Used from the thread that trains."""

    def __init__(
        self,
        store: Store,
        checkpoints: Checkpoints,
        models: Models,
        samplers: Samplers,
        await_: Await,
    ) -> None:
        self._store, self._checkpoints, self._models = store, checkpoints, models
        self._samplers, self._await = samplers, await_
        self._verbs = {
            Kind.CREATE: self._create,
            Kind.SAVE: self._save,
            Kind.SAVE_SAMPLER: self._save_sampler,
            Kind.LOAD: self._load,
            Kind.UNLOAD: self._unload,
        }

    def do(self, row: Model, future: Future) -> Outcome:
        """Raises RequestError for what the client can change, else CheckpointError."""
        body = json.loads(future.payload or b"{}")
        return self._verbs[future.kind](row, future, body)

    # -- internals ---------------------------------------------------------------

    def _create(self, row: Model, future: Future, body: dict[str, Any]) -> Outcome:
        self._models.get(row)
        return Outcome(results.of_json({"model_id": row.id, "type": "create_model"}))

    def _save(self, row: Model, future: Future, body: dict[str, Any]) -> Outcome:
        name = _own_name(body.get("path") or f"seq-{_place(future)}")
        path = TinkerPath(row.id, "weights", name)
        record = self._written(row, path, body, body.get("overwrite", False), is_training=True)
        return Outcome(
            results.of_json({"path": str(path), "type": "save_weights"}), records=(record,)
        )

    def _save_sampler(self, row: Model, future: Future, body: dict[str, Any]) -> Outcome:
        answer: dict[str, Any] = {"type": "save_weights_for_sampler"}
        if body.get("path"):
            path = TinkerPath(row.id, "sampler_weights", _own_name(body["path"]))
            record = self._written(row, path, body, False, is_training=False)
            return Outcome(results.of_json(answer | {"path": str(path)}), records=(record,))
        seq = body.get("sampling_session_seq_id")
        is_inflight = body.get("kind") == INFLIGHT
        name = INFLIGHT if is_inflight else f"unnamed-{_place(future)}"
        path = TinkerPath(row.id, "sampler_weights", f"_{name}")
        id = f"{row.session_id}:sample:{_place(future) if seq is None else seq}"
        if seq is None:  # numbers of the client's own are small
            id = f"{row.session_id}:sample:{10**12 + future.number}"
        if self._store.get(Sampler, id) is not None:
            raise RequestError(f"sampling session {id!r} exists; take another number.")
        lora = self._models.get(row).snapshot()
        self._checkpoints.write(path, lora, base_model=row.base_model)
        self._await(self._samplers.publish(str(path), lora))
        now = time.time()
        sampler = Sampler(
            id, row.owner, row.session_id, row.base_model, str(path), now, now, row.id, True
        )
        return Outcome(results.of_json(answer | {"sampling_session_id": id}), records=(sampler,))

    def _load(self, row: Model, future: Future, body: dict[str, Any]) -> Outcome:
        path = parse(body["path"])
        tenant = self._models.get(row)
        is_optimizer = bool(body.get("optimizer"))
        lora, optimizer = self._checkpoints.read(path, is_optimizer=is_optimizer)
        if lora.config.scale != _scale(row):
            raise RequestError(
                f"{path} was trained with scale {lora.config.scale:g}, this model has "
                f"{_scale(row):g}; make a model from the saved state."
            )
        tenant.load(lora, optimizer)
        try:
            state = self._models.keep(row, tenant)
        except Exception:
            self._models.forget(row.id)
            raise
        answer = {"path": str(path), "model_id": row.id, "type": "load_weights"}
        return Outcome(results.of_json(answer), state=state)

    def _unload(self, row: Model, future: Future, body: dict[str, Any]) -> Outcome:
        def drop() -> None:
            self._models.forget(row.id)
            self._models.drop_state(row.id, row.state)
            ended = "model_id = ? AND payload IS NOT NULL AND status != 'pending'"
            self._store.change_all(Future, ended, row.id, payload=None)

        answer = {"model_id": row.id, "type": "unload_model"}
        changes = {"status": "unloaded"}
        return Outcome(results.of_json(answer), changes=changes, afterwards=(drop,))

    def _written(
        self,
        row: Model,
        path: TinkerPath,
        body: dict[str, Any],
        overwrite: bool,
        *,
        is_training: bool,
    ) -> Checkpoint:
        """The weights on disk; its row, which takes the place of one that may be there."""
        old = self._store.get(Checkpoint, str(path))
        if old is not None and not overwrite:
            raise RequestError(f"{path} exists; take another name, or say overwrite.")
        tenant = self._models.get(row)
        lora: LoraWeights = tenant.snapshot()
        num_bytes = self._checkpoints.write(
            path,
            lora,
            optimizer=tenant.optimizer_state() if is_training else None,
            base_model=row.base_model,
        )
        ttl, now = body.get("ttl_seconds"), time.time()
        extra = {
            "user_metadata": body.get("user_metadata"),
            "base_model": row.base_model,
            "rank": row.rank,
            "alpha": row.extra["alpha"],
            "targets": list(row.targets),
            "seed": row.seed,
        }
        record = Checkpoint(
            str(path), row.owner, row.id, path.kind, path.name, now, num_bytes, extra=extra
        )
        return dataclasses.replace(record, expires_at=now + ttl) if ttl else record


def _place(future: Future) -> int:
    return future.number if future.seq is None else future.seq


def _own_name(name: str) -> str:
    if name.startswith("_"):
        raise RequestError(f"the name {name!r} begins with '_', which is kept for the server's.")
    return check_name(name)


def _scale(row: Model) -> float:
    return float(row.extra["alpha"]) / row.rank
