"""Requests in flight on replicas: sent, heard of, given up, and what becomes of them at a death.

    flights.send(request, tell, may_repeat=...) -> Flight
    flights.hear(batch)          news for whoever listens
    flights.leave(flight)        nobody listens any more
    flights.lost(index)          their replica died: sent elsewhere once, or ended with an error

`tell` gets deltas, and at most one exception, the last thing it gets. A request goes elsewhere when
its replica dies before anything of it was told, or (`may_repeat`) when its listener waits for whole
outputs. Thread-safe; `tell` is called without the lock.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from evolute.engine.replicas.actor import Failed, News
from evolute.engine.replicas.agreement import no_replica
from evolute.engine.replicas.router import Made, Router, Ticket
from evolute.types import BackendError, Delta, GenerateRequest, Output, RequestError

logger = logging.getLogger(__name__)
Tell = Callable[[Delta | Exception], None]


@dataclass(slots=True, eq=False)
class Flight:
    """One request on its replica."""

    request: GenerateRequest
    tell: Tell
    may_repeat: bool
    key: int
    ticket: Ticket
    outputs: dict[int, Output] = field(default_factory=dict)
    num_made: int = 0  # tokens
    has_begun: bool = False
    repeats: int = 0

    def made(self) -> Made:
        """As far as it came."""
        if len(self.outputs) == self.request.sampling.n:
            return Made.of(self.request, list(self.outputs.values()))
        computed = len(self.request.prompt) - self.ticket.cached_tokens
        return Made(computed if self.has_begun else 0, self.num_made)


class Flights:
    """`actor_of(index)` is the handle of a replica that lives."""

    def __init__(self, router: Router, actor_of: Callable[[int], Any]) -> None:
        self.lock = threading.RLock()  # the router's too
        self._router, self._actor_of = router, actor_of
        self._keys = itertools.count()
        self._flights: dict[int, Flight] = {}
        self._by_id: dict[str, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def on(self, index: int) -> int:
        """How many are in flight there."""
        with self.lock:
            return sum(flight.ticket.replica == index for flight in self._flights.values())

    def replica_of(self, request_id: str) -> int | None:
        with self.lock:
            flight = self._by_id.get(request_id)
        return None if flight is None else flight.ticket.replica

    def send(self, request: GenerateRequest, tell: Tell, *, may_repeat: bool) -> Flight:
        """Raises OutOfCapacity when no replica lives, RequestError for an id in flight."""
        with self.lock:
            if request.id in self._by_id:
                text = f"a request with id {request.id!r} is in flight; ids are unique."
                raise RequestError(text)
            ticket = self._router.route(request)
            if ticket is None:
                raise no_replica()
            flight = Flight(request, tell, may_repeat, next(self._keys), ticket)
            self._by_id[request.id] = flight
            self._launch(flight)
        return flight

    def hear(self, batch: Iterable[News]) -> None:
        for one in batch:
            if not isinstance(one, tuple):
                continue
            key, item = one
            with self.lock:
                flight = self._flights.get(key)
                if flight is None:
                    continue  # it was given up
                self._note(flight, item)
            self._tell(flight, item.error if isinstance(item, Failed) else item)

    def leave(self, flight: Flight) -> None:
        """Of no effect when it has ended."""
        with self.lock:
            if flight.key not in self._flights:
                return
            self._close(flight, flight.made())
            actor = self._actor_of(flight.ticket.replica)
        if actor is not None:
            actor.abort.remote(flight.key)

    def lost(self, index: int, why: str) -> None:
        """The router knows of the death already."""
        with self.lock:
            lost = [f for f in self._flights.values() if f.ticket.replica == index]
            told = [(flight, self._recover(flight, why)) for flight in lost]
        for flight, error in told:
            if error is not None:
                self._tell(flight, error)

    def end_all(self, error: Exception) -> None:
        """Nobody is heard of any more."""
        with self.lock:
            flights = list(self._flights.values())
            for flight in flights:
                self._close(flight, None)
        for flight in flights:
            self._tell(flight, error)

    # -- internals, under the lock -----------------------------------------------

    def _launch(self, flight: Flight) -> None:
        self._flights[flight.key] = flight
        self._actor_of(flight.ticket.replica).submit.remote(flight.key, flight.request)

    def _note(self, flight: Flight, item: Delta | Failed) -> None:
        if isinstance(item, Failed):
            self._close(flight, flight.made() if flight.has_begun else None)
            return
        flight.has_begun = True
        flight.num_made += len(item.token_ids)
        if item.output is not None:
            flight.outputs[item.index] = item.output
            if len(flight.outputs) == flight.request.sampling.n:
                self._close(flight, flight.made())

    def _close(self, flight: Flight, made: Made | None) -> None:
        del self._flights[flight.key]
        self._by_id.pop(flight.request.id, None)
        self._router.ended(flight.ticket, made)

    def _recover(self, flight: Flight, why: str) -> Exception | None:
        """None: it goes on elsewhere."""
        index = flight.ticket.replica
        self._close(flight, None)
        if flight.repeats or (flight.has_begun and not flight.may_repeat):
            once = " for the second time" if flight.repeats else ""
            return BackendError(
                f"replica {index}, which served this request, was lost{once} ({why}); what it "
                "made so far is incomplete. Send the request again."
            )
        ticket = self._router.route(flight.request)
        if ticket is None:
            return no_replica()
        flight.key, flight.ticket, flight.repeats = next(self._keys), ticket, 1
        flight.outputs, flight.num_made, flight.has_begun = {}, 0, False
        self._by_id[flight.request.id] = flight
        self._launch(flight)
        return None

    # -- internals, without it -----------------------------------------------------

    def _tell(self, flight: Flight, item: Delta | Exception) -> None:
        try:
            flight.tell(item)
        except Exception:  # e.g. its event loop is closed: nobody will read the rest
            logger.warning("nobody listens to %s any more", flight.request.id, exc_info=True)
            self.leave(flight)
