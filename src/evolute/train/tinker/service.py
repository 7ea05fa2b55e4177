"""The training service: sessions, models, samplers and futures, on one engine and one base model.

    service = Service(engine, model, config, served_names)
    service.submit(...) -> Future          noted, then done by the worker or the players
    await service.outcome(id, timeout_s) -> Future
    service.close()

What a client asked for is in the database before it is told so. After a death everything that had
not ended is done again (`worker`, `players`), and models come back as they were (`models`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from evolute.engine import Engine
from evolute.models import LoadedModel, LoraConfig
from evolute.server.limits import TooManyRequests
from evolute.train.policy import Policy
from evolute.train.tinker import messages, passes
from evolute.train.tinker.actions import Actions
from evolute.train.tinker.checkpoints import Checkpoints, parse
from evolute.train.tinker.datums import Bounds, check, raw_from_json
from evolute.train.tinker.losses import spec_of
from evolute.train.tinker.models import Models
from evolute.train.tinker.players import Players
from evolute.train.tinker.queue import Queue
from evolute.train.tinker.records import Checkpoint, Future, Kind, Model, Session, Status
from evolute.train.tinker.samplers import Samplers
from evolute.train.tinker.schedule import Rules
from evolute.train.tinker.settings import ServiceConfig, check_precision
from evolute.train.tinker.store import Store
from evolute.train.tinker.sweeper import sweep
from evolute.train.tinker.waiters import Waiters
from evolute.train.tinker.worker import Worker
from evolute.types import ConfigError, RequestError

logger = logging.getLogger(__name__)
CLOSE_S = 10.0  # for what is in progress; the rest is done at the next start
PUBLISH_S = 120.0


class Service:
    """Used from any thread. Owns its directory: a second service on it is refused."""

    def __init__(
        self,
        engine: Engine,
        model: LoadedModel,
        config: ServiceConfig,
        served_names: Sequence[str] = (),
    ) -> None:
        check_precision(engine.config.precision)
        self.engine, self.config, self.model = engine, config, model.config
        self.names = tuple(dict.fromkeys((*served_names, engine.model_name, *config.names)))
        self.directory = Path(config.directory)
        self._lock = _locked(self.directory)
        self.store = Store(config.database or self.directory / "service.db")
        self.checkpoints = Checkpoints(self.directory / "checkpoints")
        base = Policy(model, LoraConfig(1), fused=config.fused, precision=config.precision)
        self.bounds = Bounds(model.config.vocab_size, engine.config.context)
        self.waiters, self.queue = Waiters(), Queue(Rules(config.look_ahead, config.gap_s))
        self._loop = asyncio.new_event_loop()
        self.states = Checkpoints(self.directory / "states")
        models = Models(base, model.config, self.store, self.states, config, self.prepare)
        self.samplers = Samplers(engine, base, self.checkpoints, config.max_samplers)
        actions = Actions(self.store, self.checkpoints, models, self.samplers, self._await)
        parts = (self.store, self.queue, self.waiters)
        self._worker = Worker(*parts, models, actions, self.prepare, config)
        self.players = Players(self, self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.name = "evolute-sampling"
        self._thread.start()
        self._recover()
        self._worker.start()
        self.players.start()
        self._sweeping = asyncio.run_coroutine_threadsafe(self._sweep(), self._loop)

    def close(self) -> None:
        """Idempotent. What has not ended is done again at the next start."""
        if self._loop.is_closed():
            return
        self._worker.close(CLOSE_S)
        self._sweeping.cancel()
        self.players.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._loop.is_running():
            self._loop.close()
        self.store.close()
        self._lock.close()

    # -- futures -------------------------------------------------------------------

    def submit(
        self,
        kind: Kind,
        *,
        owner: str,
        session_id: str,
        model_id: str | None,
        seq: int | None,
        payload: bytes,
        digest: str,
        format: str = "json",
        id: str | None = None,
        before: Any = None,
    ) -> Future:
        """Note a request; `before` is called within the same transaction. One that came before is
        not done twice: the same future. Raises RequestError when its number is taken."""
        key = id or (f"{model_id}:{seq}" if seq is not None else uuid.uuid4().hex)
        future = Future(
            key, kind, owner, session_id, model_id, seq, digest, payload, time.time(), format=format
        )
        with self.store.transaction():
            known = self.store.get(Future, key)
            if known is not None:
                if known.digest != digest or known.kind is not kind or known.owner != owner:
                    raise RequestError(
                        f"request {seq} of {model_id or session_id!r} was another one; give each "
                        "request a number of its own."
                    )
                return known
            self._check_pending(session_id)
            if before is not None:
                before()
            self.store.put(future)
            future = self.store.get(Future, key) or future
        if kind is Kind.SAMPLE:
            self.players.add(future)
        else:
            self.queue.add(future)
        return future

    async def outcome(self, id: str, timeout_s: float) -> Future | None:
        """The future as soon as it has ended, or as it is when the time is over."""
        event = self.waiters.register(id)
        future = await asyncio.to_thread(self.store.get, Future, id)
        if future is None or future.status is not Status.PENDING:
            self.waiters.tell([id])
            return future
        await self.waiters.wait(id, timeout_s, event)
        return await asyncio.to_thread(self.store.get, Future, id)

    def prepare(self, future: Future) -> passes.Request:
        """What a pass is asked, from its bytes. Raises RequestError or WireError."""
        body = read_pass(future)
        spec = spec_of(body["loss_fn"], body["loss_fn_config"])
        raws = body["data"]
        if not 1 <= len(raws) <= self.config.max_datums:
            raise RequestError(
                f"data holds {len(raws)} datums; it must be 1 to {self.config.max_datums}."
            )
        datums = [check(raw, spec, self.bounds, f"data[{i}]") for i, raw in enumerate(raws)]
        return passes.Request(datums, spec, future.kind is Kind.FORWARD_BACKWARD)

    def remove(self, row: Checkpoint) -> None:
        """A checkpoint, from the database first and then from the disk."""
        self.store.delete(Checkpoint, "path = ?", row.path)
        path = parse(row.path)
        self.checkpoints.delete(path)
        self.forget_weights(row.path)

    def forget_weights(self, path: str) -> None:
        """Out of the engine, soon, if nobody uses them."""
        asyncio.run_coroutine_threadsafe(self.samplers.forget(path), self._loop)

    # -- internals ---------------------------------------------------------------

    def _check_pending(self, session_id: str) -> None:
        where = "session_id = ? AND status = ?"
        count = self.store.count(Future, where, session_id, Status.PENDING)
        if count >= self.config.max_pending:
            raise TooManyRequests(
                f"session {session_id!r} has {count} requests that wait; {self.config.max_pending} "
                "are allowed. Wait for some to end."
            )

    def _recover(self) -> None:
        for row in self.store.find(Model, "status = 'active'"):
            self.queue.progress(row.id, row.last_seq)
            if row.extra.get("paused"):
                self.queue.pause(row.id)
        pending = self.store.find(Future, "status = ?", Status.PENDING)
        for future in pending:
            (self.players if future.kind is Kind.SAMPLE else self.queue).add(future)
        if pending:
            logger.warning("%d requests had not ended; they are done again", len(pending))
        self.store.change_all(  # nobody could say that it is alive while we were not
            Session, "state = 'active'", seen_at=time.time()
        )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self.config.sweep_s)
            try:
                await asyncio.to_thread(sweep, self, time.time())
            except Exception:
                logger.exception("the sweep failed; the next one tries again")

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PUBLISH_S)


def read_pass(future: Future) -> dict[str, Any]:
    """Loss, settings and datums, whichever way they came."""
    payload = future.payload or b""
    if future.format == "proto":
        return messages.read_forward_backward(payload)
    body = json.loads(payload)
    given = body.get("forward_backward_input") or body["forward_input"]
    raws = [raw_from_json(one, f"data[{i}]") for i, one in enumerate(given["data"])]
    return {
        "loss_fn": given["loss_fn"],
        "loss_fn_config": given.get("loss_fn_config") or {},
        "data": raws,
    }


def digest_of(body: Any) -> str:
    """Of what was asked, whatever the order of its fields."""
    if not isinstance(body, bytes):
        body = json.dumps(body, sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest()


def _locked(directory: Path) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    handle = (directory / "lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError):
            handle.close()
        raise ConfigError(
            f"another training service uses {directory}; stop it, or set train.directory."
        ) from None
    return handle
