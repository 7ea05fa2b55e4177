"""One replica as this process sees it: start it, hear its news, notice its death, start it anew.

    replica = Replica(index, cluster, start, owner)
    replica.begin(), wait(s), kill(), end(), join()
    replica.actor, facts, is_alive, heartbeat, stats, restarts, why

    start -> owner.admit (brought up to date) -> news ... -> owner.lost -> pause -> start

A thread of its own waits for the actor. One that says nothing for SILENT_S is taken for dead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from evolute.engine.engine import EngineStats, Heartbeat
from evolute.engine.replicas.actor import BEAT_S, Beat, Facts, News
from evolute.engine.replicas.cluster import Cluster
from evolute.types import BackendError

logger = logging.getLogger(__name__)
START_S = 180.0  # for the process, and for a model of some size
POLL_S = 0.5  # how soon a close is noticed
SILENT_S = 60.0  # it beats every second
SOUND_S = 60.0  # who lived that long is started anew at once
MAX_PAUSE_S = 30.0
NOT_YET = Heartbeat(False, False, 0.0, 0, 0)


class Owner(Protocol):
    """Who has the replicas."""

    def admit(self, replica: Replica) -> None:
        """It is there: bring it up to date, then send it requests."""

    def hear(self, replica: Replica, batch: list[News]) -> None: ...
    def lost(self, replica: Replica) -> None:
        """It is there no more, nor is what was in flight on it."""


class Replica:
    """A number that one actor after another has."""

    def __init__(
        self, index: int, cluster: Cluster, start: Callable[[], Any], owner: Owner
    ) -> None:
        self.index, self.restarts, self.why = index, 0, ""
        self.actor: Any = None
        self.facts: Facts | None = None
        self.stats: EngineStats | None = None
        self.is_alive = False
        self._cluster, self._start, self._owner = cluster, start, owner
        self._beat, self._heard_s = NOT_YET, 0.0
        self._closing, self._settled = threading.Event(), threading.Event()
        name = f"evolute-replica-{index}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until it lives. Raises BackendError when its start fails or takes too long."""
        if not self._settled.wait(timeout_s) or not self.is_alive:
            why = self.why or f"it did not start within {timeout_s:g} s"
            raise BackendError(f"replica {self.index} does not start: {why}")

    @property
    def heartbeat(self) -> Heartbeat:
        """Its last one. Silence counts as a step that does not end."""
        if not self.is_alive:
            return NOT_YET
        silent_s = time.monotonic() - self._heard_s
        beat = self._beat if self._beat is not NOT_YET else replace(NOT_YET, is_alive=True)
        return beat if silent_s < 3 * BEAT_S else replace(beat, busy_s=beat.busy_s + silent_s)

    def kill(self) -> None:
        """End the actor; another one follows."""
        if self.actor is not None:
            self._cluster.kill(self.actor)

    def end(self) -> None:
        """End the actor for good. Idempotent."""
        self._closing.set()
        self.kill()

    def join(self) -> None:
        """Until all is settled."""
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    # -- internals -------------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._closing.wait(pause_s):
            began = time.monotonic()
            try:
                self._live()
            except Exception as error:
                self.why = self._reason(error)
            if self._closing.is_set():
                break
            logger.error("replica %d is lost: %s", self.index, self.why)
            self._die()
            sound = time.monotonic() - began > SOUND_S
            pause_s = 0.0 if sound else min(max(2 * pause_s, BEAT_S / 4), MAX_PAUSE_S)
        self._die()

    def _live(self) -> None:
        """From the start of an actor to its end."""
        ray = self._cluster.ray
        self._beat, self.facts, self.actor = NOT_YET, None, self._start()
        self.facts = ray.get(self.actor.facts.remote(), timeout=START_S)
        self._heard_s = time.monotonic()
        self._owner.admit(self)
        self._settled.set()
        news = self._cluster.follow(self.actor)
        while not self._closing.is_set():
            ready, _ = ray.wait([news], timeout=POLL_S)
            if ready:
                self._heard_s = time.monotonic()
                self._take(ray.get(next(news), timeout=SILENT_S))
            elif time.monotonic() - self._heard_s > SILENT_S:
                raise BackendError(f"it was silent for {SILENT_S:g} s")

    def _take(self, batch: list[News]) -> None:
        for one in batch:
            if isinstance(one, Beat):
                self._beat, self.stats = one.heartbeat, one.stats or self.stats
                if not one.heartbeat.is_alive:
                    raise BackendError("its engine's thread has ended")
        self._owner.hear(self, batch)

    def _reason(self, error: Exception) -> str:
        """In a line; what Ray says of an actor's end is long."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if not isinstance(error, self._cluster.ray.exceptions.RayActorError):
            return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
        began = self.facts is not None
        return "its process ended" if began or not lines else f"it cannot begin: {lines[-1]}"

    def _die(self) -> None:
        self.is_alive = False
        try:
            self._owner.lost(self)
            self.kill()
        except Exception:
            logger.exception("the end of replica %d could not be settled", self.index)
        self._settled.set()
        self.restarts += 1
