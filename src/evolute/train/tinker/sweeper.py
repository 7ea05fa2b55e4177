"""What is given up because nobody wants it any more?

    sweep(service, now) -> Swept

Sessions without a sign of life expire: what they asked for and is not done yet is not done, and
their models no longer count. They live again when their client comes back. Results that were kept
long enough, checkpoints past their time, and weights of unnamed samplers that nobody uses go.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolute.train.tinker.checkpoints import parse
from evolute.train.tinker.records import Checkpoint, Future, Kind, Sampler, Session, Status

if TYPE_CHECKING:
    from evolute.train.tinker.service import Service

logger = logging.getLogger(__name__)
FORGET = 24  # times keep_result_s, then even the name of a request goes


@dataclass(frozen=True, slots=True)
class Swept:
    """How many of each."""

    sessions: int = 0
    requests: int = 0
    results: int = 0
    checkpoints: int = 0
    samplers: int = 0


def sweep(service: Service, now: float) -> Swept:
    """Blocks for as long as the database and the disk take."""
    store, config = service.store, service.config
    silent = store.find(Session, "state = 'active' AND seen_at < ?", now - config.heartbeat_s)
    requests = sum(_expire(service, session, now) for session in silent)
    old = now - config.keep_result_s
    ended = "status != 'pending' AND payload IS NULL AND done_at < ?"
    results = store.change_all(Future, f"{ended} AND result IS NOT NULL", old, result=None)
    store.delete(Future, ended, now - config.keep_result_s * FORGET)
    late = store.find(Checkpoint, "expires_at IS NOT NULL AND expires_at < ?", now)
    for checkpoint in late:
        service.remove(checkpoint)
    unused = store.find(Sampler, "is_unnamed = 1 AND used_at < ?", now - config.keep_sampler_s)
    for sampler in unused:
        _remove(service, sampler)
    return Swept(len(silent), requests, results, len(late), len(unused))


# -- internals ---------------------------------------------------------------


def _expire(service: Service, session: Session, now: float) -> int:
    """The number of requests that were given up."""
    where = "session_id = ? AND status = ?"
    pending = service.store.find(Future, where, session.id, Status.PENDING)
    service.queue.drop({future.id for future in pending})
    reason = (
        f"session {session.id!r} gave no sign of life for {now - session.seen_at:.0f} s, so this "
        "was not done."
    )
    with service.store.transaction():
        service.store.change(Session, session.id, state="expired")
        for future in pending:
            if future.kind is not Kind.SAMPLE:
                ended = {"status": Status.FAILED, "category": "user", "done_at": now}
                service.store.change(Future, future.id, error=reason, payload=None, **ended)
    for future in pending:
        if future.kind is Kind.SAMPLE:
            service.players.cancel(future.id)
    service.waiters.tell(future.id for future in pending)
    logger.warning("session %s has expired; %d requests given up", session.id, len(pending))
    return len(pending)


def _remove(service: Service, sampler: Sampler) -> None:
    """The row, and its weights when no other session of it is left."""
    service.store.delete(Sampler, "id = ?", sampler.id)
    path = sampler.model_path
    if path and not service.store.count(Sampler, "model_path = ?", path):
        with contextlib.suppress(OSError):
            service.checkpoints.delete(parse(path))
        service.forget_weights(path)
