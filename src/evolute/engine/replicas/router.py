"""Who gets this request, and what do the replicas have in flight? The books of the router.

    router = Router(make_policy(config), page_size)
    router.add(replica, places, room, cache_tokens), remove(replica)
    ticket = router.route(request)          None when no replica lives
    router.ended(ticket, outputs)           it ended there, or never began
    router.forget(is_stale), flushed()      what replicas have cached no more

Pure: no Ray, no clock, not thread-safe. The simulator (`bench/simulated/fleet.py`) uses the same
classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evolute.engine.replicas.config import ReplicaConfig
from evolute.engine.replicas.deficits import D2lpm
from evolute.engine.replicas.policies import (
    CacheAware,
    Candidate,
    LeastLoaded,
    RoundRobin,
    RoutingPolicy,
    Sticky,
)
from evolute.engine.replicas.prefixes import PrefixTree
from evolute.engine.scheduling.policies.service import COSTS, RECENT, Cost
from evolute.types import GenerateRequest, Output

Space = tuple[str | None, str]  # adapter, salt
KEPT = 1024  # tenants whose last outputs are remembered


@dataclass(slots=True)
class Load:
    """One living replica. `places` begin at once, `room` is what it takes in all."""

    places: int
    room: int
    service: float = 0.0  # charged to what is in flight
    in_flight: int = 0  # sequences
    routed: int = 0  # requests since it was added


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A request that was sent to a replica, and what it was charged there."""

    request: GenerateRequest
    replica: int
    cached_tokens: int  # of the prompt, as the router believes
    charged: float
    is_charged: bool  # to its tenant
    generation: int  # of the replica: a later one of the same number knows nothing of it


@dataclass(slots=True)
class Made:
    """What a request came to at its end."""

    computed_tokens: int  # of the prompt
    output_tokens: int
    texts: tuple[tuple[int, ...], ...] = ()  # outputs whose pages were cached

    @classmethod
    def of(cls, request: GenerateRequest, outputs: Sequence[Output]) -> Made:
        cached = max((output.cached_tokens for output in outputs), default=0)
        return cls(
            len(request.prompt) - cached,
            sum(len(output.token_ids) for output in outputs),
            tuple(output.token_ids for output in outputs),
        )


def make_policy(config: ReplicaConfig) -> RoutingPolicy:
    """A policy that knows no replica yet."""
    if config.routing == "d2lpm":
        return D2lpm(config.quantum)
    if config.routing == "sticky":
        return Sticky(config.stickiness)
    plain = {"round_robin": RoundRobin, "least_loaded": LeastLoaded, "cache_aware": CacheAware}
    return plain[config.routing]()


class Router:
    """Loads, the tree of what was sent where, and a policy."""

    def __init__(
        self, policy: RoutingPolicy, page_size: int = 16, cost: Cost = COSTS["tokens"]
    ) -> None:
        self.policy, self.tree, self.cost = policy, PrefixTree(page_size), cost
        self.loads: dict[int, Load] = {}
        self._generations: dict[int, int] = {}
        self._recent: dict[str, deque[int]] = {}  # by tenant: lengths of its last outputs

    def add(self, replica: int, *, places: int, room: int, cache_tokens: int) -> None:
        """It lives from now on, with an empty cache of `cache_tokens`."""
        self.remove(replica)
        self.loads[replica] = Load(places, room)
        self.tree.add(replica, cache_tokens)
        self.policy.add(replica)

    def remove(self, replica: int) -> None:
        """It lives no more; tickets for it are settled by `ended` all the same."""
        if self.loads.pop(replica, None) is not None:
            self.tree.remove(replica)
            self.policy.remove(replica)
        self._generations[replica] = self._generations.get(replica, 0) + 1

    def route(self, request: GenerateRequest) -> Ticket | None:
        """Choose a replica and count the request as in flight there; None when none lives."""
        candidates = self._candidates(request)
        if not candidates:
            return None
        choice = self.policy.choose(request.tenant, len(request.prompt), candidates)
        chosen = next(c for c in candidates if c.replica == choice.replica)
        load = self.loads[choice.replica]
        load.service += chosen.price
        load.in_flight += request.sampling.n
        load.routed += 1
        if choice.is_charged:
            self.policy.charge(request.tenant, choice.replica, chosen.price)
        self.tree.insert(choice.replica, _space(request), request.prompt)
        return Ticket(
            request,
            choice.replica,
            chosen.cached_tokens,
            chosen.price,
            choice.is_charged,
            self._generations[choice.replica],
        )

    def ended(self, ticket: Ticket, made: Made | None) -> None:
        """Charge what it came to in place of what was expected; None: it never began."""
        request, tenant = ticket.request, ticket.request.tenant
        actual = 0.0
        if made is not None:
            actual = self._price(len(request.prompt), made.computed_tokens, made.output_tokens)
            self._remember(tenant, made.output_tokens // request.sampling.n)
        self.policy.ended(tenant)
        if self._generations[ticket.replica] != ticket.generation:
            return
        load = self.loads[ticket.replica]
        load.service -= ticket.charged
        load.in_flight -= request.sampling.n
        if not load.in_flight:
            load.service = 0.0  # no dust of rounding
        if ticket.is_charged:
            self.policy.charge(tenant, ticket.replica, actual - ticket.charged)
        for text in made.texts if made else ():
            self.tree.insert(ticket.replica, _space(request), request.prompt + text)

    def resize(self, *, places: int, room: int) -> None:
        """All replicas run and take so many from now on."""
        for replica, load in self.loads.items():
            self.loads[replica] = replace(load, places=places, room=room)

    def forget(self, adapter: str) -> None:
        """What was computed with an adapter matches no more."""
        self.tree.drop(lambda space: space[0] == adapter)

    def flushed(self) -> None:
        """Nothing cached matches any more."""
        self.tree.clear()

    # -- internals -------------------------------------------------------------

    def _candidates(self, request: GenerateRequest) -> list[Candidate]:
        """Those with room, or all when none has any: the one that is chosen says so."""
        matched = self.tree.match(_space(request), request.prompt)
        with_room = [r for r, load in self.loads.items() if load.in_flight < load.room]
        ahead = self._predict(request) * request.sampling.n
        found = []
        for replica in with_room or self.loads:
            load, cached = self.loads[replica], min(matched[replica], len(request.prompt) - 1)
            price = self._price(len(request.prompt), len(request.prompt) - cached, ahead)
            is_open = load.in_flight < load.places
            numbers = (cached, price, load.service, load.in_flight, is_open)
            found.append(Candidate(replica, *numbers, request.session))
        return found

    def _price(self, num_prompt: int, computed: int, made: int) -> float:
        return self.cost.of_prompt(computed) + self.cost.of_output(num_prompt, 0, made)

    def _predict(self, request: GenerateRequest) -> int:
        """The mean of the tenant's last outputs; none yet: nothing is charged ahead."""
        recent = self._recent.get(request.tenant)
        mean = round(sum(recent) / len(recent)) if recent else 0
        return min(mean, request.sampling.max_new_tokens)

    def _remember(self, tenant: str, length: int) -> None:
        recent = self._recent.pop(tenant, None) or deque(maxlen=RECENT)
        recent.append(length)
        self._recent[tenant] = recent  # who ended last comes last
        if len(self._recent) > KEPT:
            del self._recent[next(iter(self._recent))]


def _space(request: GenerateRequest) -> Space:
    return request.adapter, request.cache_salt
