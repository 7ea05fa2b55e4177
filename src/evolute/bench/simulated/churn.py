"""What is left of a million requests? Traffic that does not come back, without a model.

    churn("dlpm", 1_000_000) -> Churn      raises LeftOver when a container grew beyond its bound
    sizes(placement, queue)                how many elements each of their containers holds

Policies, scheduling and memory are the real ones. Tenants (the requests' number by ten), salts and
adapters are used for a while and never again; requests are aborted while they wait and while they
run, adapters replaced under them, the cache flushed, everything retracted.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace

from evolute.engine.scheduling import (
    Chunk,
    Limits,
    Placement,
    Policy,
    PolicySettings,
    Sequence,
    displaced,
    make_policy,
    next_step,
)
from evolute.engine.scheduling.policies.build import PolicyName
from evolute.types import BackendError

NUM_PAGES, PAGE_SIZE, BUDGET, MAX_RUNNING, IN_FLIGHT = 192, 4, 128, 16, 48
NUM_ADAPTERS = 8
SAMPLES = 50  # how often containers are looked at
KEPT = 4096  # elements that a policy may keep of tenants that are gone
POOL_PARTS = ("placement.pool",)  # sized by the number of pages


class LeftOver(BackendError):
    """Something grows with the traffic that has been, not with what is in flight."""


@dataclass(slots=True)
class Churn:
    """What was done, and the most elements that each container ever held."""

    requests: int = 0
    finished: int = 0
    aborted: int = 0
    preempted: int = 0
    steps: int = 0
    adapters: int = 0
    largest: dict[str, int] = field(default_factory=dict)

    def see(self, found: Mapping[str, int]) -> None:
        """Raises LeftOver for a container above its bound."""
        for name, size in found.items():
            self.largest[name] = max(self.largest.get(name, 0), size)
            if size > bound(name):
                raise LeftOver(
                    f"{name} holds {size} elements after {self.requests} requests; "
                    f"{IN_FLIGHT} requests and {NUM_PAGES} pages explain {bound(name)}."
                )


def churn(policy: PolicyName, requests: int, *, seed: int = 0) -> Churn:
    """Serve so many, drain, and account for every page. Raises LeftOver, AssertionError."""
    return _Churn(policy, requests, seed).run()


def sizes(placement: Placement, queue: Policy) -> dict[str, int]:
    """Every container among the attributes, so that one added later is watched too."""
    owners = {
        "placement": placement,
        "placement.pool": placement.pool,
        "placement.cache": placement.cache,
        "placement.adapters": placement.adapters,
        "placement.tier": placement.tier,
        "queue": queue,
        "queue.ledger": getattr(queue, "ledger", None),
    }
    return {
        f"{owner}.{name}": len(value)
        for owner, thing in owners.items()
        for name, value in getattr(thing, "__dict__", {}).items()
        if isinstance(value, Sized) and not isinstance(value, tuple)  # they do not grow
    }


def bound(name: str) -> int:
    """The most that pages, requests in flight and remembered tenants explain."""
    if name.startswith(POOL_PARTS):
        return NUM_PAGES
    if name.startswith("placement."):
        return 2 * NUM_PAGES + 64 + IN_FLIGHT
    return KEPT


# -- internals ---------------------------------------------------------------


class _Churn:
    def __init__(self, policy: PolicyName, requests: int, seed: int) -> None:
        self.dice, self.total = random.Random(seed), requests
        self.placement = Placement(NUM_PAGES, PAGE_SIZE)
        self.queue = make_policy(PolicySettings(policy, quantum=64))
        self.done = Churn()
        self.flying: dict[Sequence, None] = {}
        self.adapters: deque[int] = deque()
        self.prefixes = [[1, 2, 3, 4, i] for i in range(4)]

    def run(self) -> Churn:
        every, looked = max(self.total // SAMPLES, 1), 0
        while self.done.requests < self.total or self.flying:
            while len(self.flying) < IN_FLIGHT and self.done.requests < self.total:
                self._arrive()
            self._disturb()
            self._step()
            if self.done.requests >= looked + every:
                looked = self.done.requests
                self.placement.check()
                self.done.see(sizes(self.placement, self.queue))
        self._drain()
        return self.done

    def _arrive(self) -> None:
        dice, number = self.dice, self.done.requests
        prompt = [*dice.choice(self.prefixes), *(dice.randrange(99) for _ in range(6))]
        adapter = dice.choice(self.adapters) if self.adapters and dice.random() < 0.3 else -1
        salt = f"salt-{number}" if dice.random() < 0.2 else ""
        often = dice.random() < 0.3
        sequence = Sequence(
            number,
            len(prompt),
            prompt,
            dice.randint(1, 4),
            namespace=(f"a{adapter}" if adapter >= 0 else None, 0, salt),
            tenant=f"t{number % 3}" if often else f"once-{number // 10}",
            priority=dice.randrange(3) * 8,
            adapter=adapter,
        )
        self.done.requests += 1
        self.flying[sequence] = None
        self.queue.push(sequence)

    def _disturb(self) -> None:
        """At most one of everything that operators and clients do."""
        chance = self.dice.random()
        if chance < 0.3 and self.flying:
            self._abort(self.dice.choice(list(self.flying)))
        elif chance < 0.45:
            self._change_adapters()
        elif chance < 0.455:
            self.placement.drop(lambda namespace: True)
        elif chance < 0.46:
            for sequence in reversed(list(self.placement.running)):
                self._preempt(sequence)

    def _abort(self, sequence: Sequence) -> None:
        self.done.aborted += 1
        self.queue.discard(sequence)
        if sequence in self.placement.running:
            self._finish(sequence)
        del self.flying[sequence]

    def _change_adapters(self) -> None:
        """The oldest goes for ever when nobody needs it; else it gets a new version."""
        adapters, placement = self.adapters, self.placement
        if len(adapters) >= NUM_ADAPTERS:
            oldest = adapters[0]
            placement.drop(lambda namespace: namespace[0] == f"a{oldest}")
            for sequence in self.flying:
                if sequence.adapter == oldest and sequence in placement.running:
                    sequence.is_private = True  # two versions in its pages
            if any(sequence.adapter == oldest for sequence in self.flying):
                placement.resize_adapter(oldest, self.dice.randint(1, 6))
                adapters.rotate(-1)
                return
            placement.remove_adapter(adapters.popleft())
        self.done.adapters += 1
        adapters.append(self.done.adapters)
        placement.adapters.set_size(self.done.adapters, self.dice.randint(1, 6))

    def _step(self) -> None:
        placement, queue = self.placement, self.queue
        limits = Limits(
            BUDGET, placement.num_available, PAGE_SIZE, MAX_RUNNING, placement.adapters.sizes
        )
        victim = displaced(placement.running, queue, placement.look_up, limits)
        if victim is not None:
            self._preempt(victim)
            victim.is_displaced = True
            limits = replace(limits, available_pages=placement.num_available)
        step = next_step(
            placement.running, queue, placement.look_up, limits, placement.cached_tokens()
        )
        for sequence in step.preempted:
            self._preempt(sequence)
        for sequence in step.admitted:
            queue.admit(sequence, placement.look_up(sequence).num_cached)
            placement.admit(sequence)
        chunks = [chunk for chunk in step.chunks if placement.reserve(chunk)]
        for chunk in chunks:
            self._compute(chunk)
        self.done.steps += 1
        if not chunks and not step.preempted and self.flying:
            raise LeftOver(f"{len(self.flying)} requests wait and nothing can go on.")

    def _compute(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        sequence.num_computed += chunk.num_tokens
        if sequence.num_uncomputed:
            return
        if sequence.num_generated == 0:
            self.placement.publish(sequence)
        sequence.tokens.append(self.dice.randrange(99))
        self.queue.made(sequence)
        if sequence.num_generated == sequence.max_new_tokens:
            self.done.finished += 1
            self._finish(sequence)
            del self.flying[sequence]

    def _preempt(self, sequence: Sequence) -> None:
        self.done.preempted += 1
        sequence.num_preemptions += 1
        self.queue.push(sequence, front=True)
        self.placement.release(sequence)

    def _finish(self, sequence: Sequence) -> None:
        self.queue.finish(sequence)
        self.placement.release(sequence)

    def _drain(self) -> None:
        """Nothing is in flight: all pages are free, and nobody remembers a sequence."""
        placement = self.placement
        for adapter in self.adapters:
            placement.remove_adapter(adapter)
        placement.drop(lambda namespace: True)
        placement.check()
        if placement.pool.num_free != NUM_PAGES or placement.fault():
            raise LeftOver(f"{NUM_PAGES - placement.pool.num_free} pages were lost.")
        found = sizes(placement, self.queue)
        self.done.see(found)
        kept = ("accounts", "_served", "_leaves", "_free", "_is_free")  # see `bound`
        left = {name: n for name, n in found.items() if n and not name.endswith(kept)}
        if left:
            raise LeftOver(f"nothing is in flight, but there is {left}.")
