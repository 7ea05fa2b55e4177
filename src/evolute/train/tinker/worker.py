"""The thread that trains: takes what is next, does it, and notes it in one transaction.

    Worker(service parts...).start(), .close()

A request that fails is noted as failed, with whose fault it was, and nothing else is touched. A
request in whose midst the process dies is still pending in the database: it is done again at the
next start, `max_attempts` times in all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evolute.train.control.priority import step_back
from evolute.train.tinker import passes, results
from evolute.train.tinker.actions import Actions
from evolute.train.tinker.models import Models, adam_of
from evolute.train.tinker.outcome import Outcome
from evolute.train.tinker.queue import Queue
from evolute.train.tinker.records import Checkpoint, Future, Kind, Model, Sampler, Status
from evolute.train.tinker.results import category_of, message_of
from evolute.train.tinker.schedule import Item
from evolute.train.tinker.settings import ServiceConfig
from evolute.train.tinker.store import Store
from evolute.train.tinker.tenant import Diverged
from evolute.train.tinker.waiters import Waiters
from evolute.types import RequestError, TrainingError

logger = logging.getLogger(__name__)
Prepare = Callable[[Future], passes.Request]


class Worker:
    """One thread; `models` and `actions` are used from nowhere else."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        waiters: Waiters,
        models: Models,
        actions: Actions,
        prepare: Prepare,
        config: ServiceConfig,
    ) -> None:
        self._store, self._queue, self._waiters = store, queue, waiters
        self._models, self._actions, self._prepare = models, actions, prepare
        self._config = config
        self._batch = 1 + store.last_batch()
        self._thread = threading.Thread(target=self._run, name="evolute-training", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """What is in progress ends first, if it ends in time; else it is done again later."""
        self._queue.close()
        self._thread.join(timeout_s)

    # -- internals ---------------------------------------------------------------

    def _run(self) -> None:
        step_back(self._config.update_nice)
        while items := self._queue.take():
            try:
                self._do(items)
            except Exception as error:  # of the disk, or ours: these fail, the others go on
                logger.exception("requests %s failed", [item.id for item in items])
                self._models.forget(items[0].model_id)  # it comes back as it was noted last
                self._note({item.id: error for item in items}, items[0].model_id)

    def _do(self, items: Sequence[Item]) -> None:
        futures = [self._store.get(Future, item.id) for item in items]
        waiting = [f for f in futures if f is not None and f.status is Status.PENDING]
        if any(future.attempts for future in waiting):  # one of them may be deadly: each alone
            for future in waiting:
                self._attempt([future])
        elif waiting:
            self._attempt(waiting)

    def _attempt(self, futures: Sequence[Future]) -> None:
        """Do requests of one model together, each attempt counted before."""
        model_id, first = futures[0].model_id or "", futures[0]
        if first.attempts >= self._config.max_attempts:
            text = f"the server died in this request {first.attempts} times; it is given up."
            self._note({first.id: results.ServerFault(text)}, model_id)
            return
        with self._store.transaction():
            for future in futures:
                self._store.change(Future, future.id, attempts=future.attempts + 1)
        row = self._store.get(Model, model_id)
        if row is None or row.status != "active":
            reason = RequestError(f"model {model_id!r} was unloaded, or never was made.")
            self._note({f.id: reason for f in futures}, model_id)
        elif first.kind.is_pass:
            self._passes(row, futures)
        else:
            self._single(row, first)

    def _passes(self, row: Model, futures: Sequence[Future]) -> None:
        requests: dict[str, passes.Request] = {}
        failed: dict[str, Exception] = {}
        for future in futures:
            try:
                _check_turn(row, future)
                requests[future.id] = self._prepare(future)
            except Exception as error:
                failed[future.id] = error
        done: dict[str, Outcome] = {}
        if requests:
            tenant = self._models.get(row)
            found = tenant.accumulate(list(requests.values()), self._config.micro_batch_tokens)
            is_split = any(isinstance(one, Exception) for one in found)
            for (id, request), one in zip(requests.items(), found):
                if isinstance(one, Exception):
                    failed[id] = one
                else:
                    self._batch += is_split
                    done[id] = Outcome(results.of_pass(request, one), batch=self._batch)
            self._batch += 1
        self._commit(row, futures, done, failed)

    def _single(self, row: Model, future: Future) -> None:
        done: dict[str, Outcome] = {}
        failed: dict[str, Exception] = {}
        try:
            _check_turn(row, future)
            if future.kind is Kind.STEP:
                done[future.id] = self._step(row, future)
            else:
                done[future.id] = self._actions.do(row, future)
        except Exception as error:
            failed[future.id] = error
        self._commit(row, [future], done, failed)

    def _step(self, row: Model, future: Future) -> Outcome:
        tenant, result = self._models.get(row), b""
        error: TrainingError | None = None
        try:
            metrics = tenant.step(adam_of(future))
            result = results.of_json({"metrics": metrics, "type": "optim_step"})
        except Diverged:
            self._models.forget(row.id)  # it comes back as it was, its gradient too
            raise
        except TrainingError as found:
            error = found  # the gradient was dropped, and that has to be remembered
        if error is None and tenant.steps % self._config.state_every:
            self._batch += 1
            return Outcome(result, batch=self._batch - 1)
        try:
            state = self._models.keep(row, tenant)
        except Exception:
            self._models.forget(row.id)  # as if the step had not been: it comes back from disk
            raise
        return Outcome(result, error, state=state)

    def _commit(
        self,
        row: Model,
        futures: Sequence[Future],
        done: Mapping[str, Outcome],
        failed: Mapping[str, Exception],
    ) -> None:
        seqs = [f.seq for f in futures if f.seq is not None]
        last = max([row.last_seq, *seqs])
        is_barrier = not futures[0].kind.is_pass
        changes: dict[str, Any] = {"last_seq": last, "used_at": time.time()}
        if is_barrier:
            changes["barrier_seq"] = max([row.barrier_seq, *seqs])
        if failed and futures[0].id == f"{row.id}:create":
            changes["status"] = "failed"  # nobody may train what it would have been without it
        state = max((o.state for o in done.values()), default=0)
        with self._store.transaction():
            for future in futures:
                if future.id in failed:
                    self._fail(future.id, failed[future.id])
                elif future.id in done:
                    self._end(future, done[future.id])
            for outcome in done.values():
                changes |= outcome.changes
                for record in outcome.records:
                    self._put(record)
            if state:
                changes["state"] = state
                self._store.change_all(
                    Future, "model_id = ? AND status = ?", row.id, Status.DONE, payload=None
                )
            self._store.change(Model, row.id, **changes)
        self._queue.progress(row.id, last)
        self._waiters.tell(future.id for future in futures)
        if state:
            self._models.drop_state(row.id, state - 1)
        for outcome in done.values():
            for after in outcome.afterwards:
                after()

    def _put(self, record: Checkpoint | Sampler) -> None:
        if isinstance(record, Checkpoint):
            self._store.replace(record)
        else:
            self._store.replace(record)

    def _end(self, future: Future, outcome: Outcome) -> None:
        if outcome.error is not None:
            return self._fail(future.id, outcome.error)
        columns: dict[str, Any] = {} if outcome.batch else {"payload": None}
        self._store.change(
            Future,
            future.id,
            status=Status.DONE,
            result=outcome.result,
            batch=outcome.batch,
            done_at=time.time(),
            **columns,
        )

    def _fail(self, id: str, error: Exception) -> None:
        if category_of(error) == "server":
            logger.error("request %s failed: %s", id, error, exc_info=error)
        self._store.change(
            Future,
            id,
            status=Status.FAILED,
            error=message_of(error),
            category=category_of(error),
            done_at=time.time(),
            payload=None,
        )

    def _note(self, failed: Mapping[str, Exception], model_id: str | None) -> None:
        """Failures that concern no model's state."""
        try:
            with self._store.transaction():
                for id, error in failed.items():
                    future = self._store.get(Future, id)
                    if future is None or future.status is not Status.PENDING:
                        continue
                    self._fail(id, error)
                    if model_id and id == f"{model_id}:create":
                        self._store.change(Model, model_id, status="failed")
        except Exception:
            logger.exception("failures of %s could not be noted", model_id)
        self._waiters.tell(failed)


def _check_turn(row: Model, future: Future) -> None:
    if future.seq is not None and future.seq <= row.barrier_seq:
        raise RequestError(
            f"request {future.seq} of {row.id!r} came after request {row.barrier_seq}, which "
            "others may not be overtaken by; it was not done. Send requests in their order."
        )
