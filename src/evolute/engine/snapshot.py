"""What is there to see now? One look at queues, memory, adapters and the last minutes, bounded.

    take_snapshot(loop, adapters, stats, tenant) -> Snapshot
    map_memory(placement, branches) -> MemoryMap

Both read on the engine's thread, between two steps, so all figures are of one moment. What does
not fit the bounds is counted, never dropped in silence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evolute.engine.adapters import AdapterInfo
from evolute.engine.history import Explanation, Visit, explain
from evolute.engine.loop import EngineLoop
from evolute.engine.memory import Outline
from evolute.engine.output import Draft
from evolute.engine.rates import Second
from evolute.engine.scheduling import Placement, Share

if TYPE_CHECKING:
    from evolute.engine.engine import EngineStats

MAX_SHOWN = 25  # of those that run, and of those that wait
MAX_ADAPTERS = 100
MAX_TENANTS = 50
MAX_RECENT = 50
MAX_BRANCHES = 64
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Owned:
    """Pages that the running sequences of one tenant have for themselves."""

    tenant: str
    num_pages: int


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """free + cached + own + adapters == num_pages, asserted by a test in every state."""

    num_pages: int
    page_size: int  # tokens
    free: int
    cached: int
    pinned: int  # of the cached ones, in use by a request
    own: int  # of running sequences
    adapters: int
    idle_adapters: int  # of the adapters' ones, of adapters that nobody uses
    owners: tuple[Owned, ...]  # of `own`, most first, at most MAX_TENANTS
    tree: Outline
    tier_pages: int = 0  # evicted ones that the second tier holds
    tier_slots: int = 0  # that it has room for


@dataclass(frozen=True, slots=True)
class InFlight:
    """An output that waits or runs."""

    where: Explanation
    adapter: str | None
    age_s: float  # since it arrived
    num_pages: int  # that it has for itself


@dataclass(frozen=True, slots=True)
class SeenAdapter:
    """One loaded adapter. `is_paged`: it needs pages; else it lies in memory of its own."""

    info: AdapterInfo
    is_paged: bool
    is_resident: bool
    users: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment. Lists are bounded; `num_...` say how many there are."""

    now_s: float  # of the clock that `Visit.arrived_s` is on
    tenant: str | None  # whose requests are shown; None: everybody's
    stats: EngineStats
    memory: MemoryMap
    running: tuple[InFlight, ...]
    waiting: tuple[InFlight, ...]
    num_running: int
    num_waiting: int
    tenants: tuple[Share, ...]
    num_tenants: int
    adapters: tuple[SeenAdapter, ...]
    num_adapters: int
    recent: tuple[Visit, ...]
    seconds: tuple[Second, ...]  # the last SECONDS whole ones, oldest first


def take_snapshot(
    loop: EngineLoop,
    adapters: Mapping[str, AdapterInfo],
    stats: EngineStats,
    tenant: str | None = None,
) -> Snapshot:
    """With `tenant`, requests and shares are those of that tenant; totals stay the engine's."""
    now, running, waiting = time.monotonic(), list[Draft](), list[Draft]()
    runs = set(loop.core.running)
    for draft in loop.in_flight():
        if tenant in (None, draft.sequence.tenant):
            (running if draft.sequence in runs else waiting).append(draft)
    shares = [share for share in stats.tenants if tenant in (None, share.tenant)]
    shares.sort(key=lambda share: (-(share.running + share.waiting), -share.service))
    recent = [visit for visit in loop.history.recent() if tenant in (None, visit.tenant)]
    return Snapshot(
        now_s=now,
        tenant=tenant,
        stats=stats,
        memory=map_memory(loop.core.placement, MAX_BRANCHES, tenant),
        running=tuple(_in_flight(loop, draft, now) for draft in running[:MAX_SHOWN]),
        waiting=tuple(_in_flight(loop, draft, now) for draft in waiting[:MAX_SHOWN]),
        num_running=len(running),
        num_waiting=len(waiting),
        tenants=tuple(shares[:MAX_TENANTS]),
        num_tenants=len(shares),
        adapters=_adapters(loop.core.placement, adapters),
        num_adapters=len(adapters),
        recent=tuple(recent[:MAX_RECENT]),
        seconds=tuple(loop.rates.last(now, SECONDS)),
    )


def map_memory(placement: Placement, branches: int, tenant: str | None = None) -> MemoryMap:
    """Who owns the pages. `tenant` narrows the list of owners, not the totals."""
    own: Counter[str] = Counter()
    for sequence in placement.running:
        own[sequence.tenant] += len(sequence.pages) - sequence.num_shared_pages
    owners = [Owned(*one) for one in own.most_common() if tenant in (None, one[0])]
    return MemoryMap(
        num_pages=placement.pool.num_pages,
        page_size=placement.page_size,
        free=placement.pool.num_free,
        cached=placement.cache.num_pages,
        pinned=placement.cache.num_pinned,
        own=own.total(),
        adapters=placement.adapters.num_pages,
        idle_adapters=placement.adapters.num_idle_pages,
        owners=tuple(owners[:MAX_TENANTS]),
        tree=placement.cache.outline(branches),
        tier_pages=placement.tier.num_pages,
        tier_slots=placement.tier.num_slots,
    )


# -- internals ---------------------------------------------------------------


def _in_flight(loop: EngineLoop, draft: Draft, now: float) -> InFlight:
    sequence = draft.sequence
    return InFlight(
        explain(loop.core, draft),
        draft.request.adapter,
        now - loop.history.visit(draft).arrived_s,
        len(sequence.pages) - sequence.num_shared_pages,
    )


def _adapters(placement: Placement, infos: Mapping[str, AdapterInfo]) -> tuple[SeenAdapter, ...]:
    """Those in use first, then the resident ones, then by name."""
    residency = placement.adapters
    users = Counter(sequence.adapter for sequence in placement.running)
    seen = [
        SeenAdapter(
            info, bool(info.num_pages), residency.is_resident(info.index), users[info.index]
        )
        for info in infos.values()
    ]
    seen.sort(key=lambda one: (-one.users, not one.is_resident, one.info.name))
    return tuple(seen[:MAX_ADAPTERS])
