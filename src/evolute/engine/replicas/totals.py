"""The figures of several engines as those of one.

    total_stats(each, retired) -> FleetStats     sums, and a line for each replica
    total_snapshot(each, stats) -> Snapshot      for the live page; total_memory(maps)
    recent(each) -> visits                       newest first
    add(a, b)                                    of counts of the same kind

Times of another process are moved to this one's clock by the `now_s` that came with them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from evolute.engine.counts import Counts
from evolute.engine.engine import EngineStats
from evolute.engine.history import KEPT, Visit
from evolute.engine.memory.radix import Branch, Outline
from evolute.engine.rates import Second
from evolute.engine.scheduling import Share
from evolute.engine.snapshot import (
    MAX_ADAPTERS,
    MAX_BRANCHES,
    MAX_RECENT,
    MAX_SHOWN,
    MAX_TENANTS,
    MemoryMap,
    Owned,
    SeenAdapter,
    Snapshot,
)

T = TypeVar("T")
SUMMED = (
    *("running", "waiting", "num_pages", "free_pages", "cached_pages", "adapter_pages"),
    *("resident_adapters", "tier_slots", "tier_pages"),
)


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """One replica. `stats` are its own figures, without tenants; None: it does not live now."""

    index: int
    is_alive: bool
    node: str
    pid: int
    restarts: int
    in_flight: int  # sequences, by the router's books
    load: float  # service charged to them
    routed: int  # requests since it started
    why: str  # it was lost the last time
    stats: EngineStats | None


@dataclass(frozen=True, slots=True)
class FleetStats(EngineStats):
    """Sums over all replicas; counts include those of replicas that were lost."""

    replicas: tuple[ReplicaStats, ...] = ()


def add(a: T, b: T) -> T:
    """Field by field, of two dataclasses of numbers."""
    names = [field.name for field in dataclasses.fields(a)]  # type: ignore[arg-type]
    sums = {name: getattr(a, name) + getattr(b, name) for name in names}
    return replace(a, **sums)  # type: ignore[type-var]


def total_stats(
    each: Sequence[EngineStats], retired: Counts, replicas: Iterable[ReplicaStats]
) -> FleetStats:
    """Of the replicas that live; at least one does."""
    counts, loads, tier = retired, each[0].adapter_loads, each[0].tier
    for stats in each:
        counts = add(counts, stats.counts)
    for stats in each[1:]:
        loads, tier = add(loads, stats.adapter_loads), add(tier, stats.tier)
    sums = {name: sum(getattr(stats, name) for stats in each) for name in SUMMED}
    return FleetStats(
        **sums,
        weight_version=each[0].weight_version,
        counts=counts,
        adapter_loads=loads,
        tier=tier,
        limit=next((stats.limit for stats in each if stats.limit), ""),
        tenants=tuple(_shares(share for stats in each for share in stats.tenants)),
        replicas=tuple(replicas),
    )


def total_snapshot(each: Sequence[Snapshot], stats: FleetStats) -> Snapshot:
    """Lists are bounded as one engine's; the trees stand side by side."""
    now = time.monotonic()
    shares = _shares(share for one in each for share in one.tenants)
    shares.sort(key=lambda share: (-(share.running + share.waiting), -share.service))
    adapters = _adapters(each)
    return Snapshot(
        now_s=now,
        tenant=each[0].tenant,
        stats=stats,
        memory=total_memory([one.memory for one in each]),
        running=_in_turn([one.running for one in each])[:MAX_SHOWN],
        waiting=_in_turn([one.waiting for one in each])[:MAX_SHOWN],
        num_running=sum(one.num_running for one in each),
        num_waiting=sum(one.num_waiting for one in each),
        tenants=tuple(shares[:MAX_TENANTS]),
        num_tenants=max(len(shares), *(one.num_tenants for one in each)),
        adapters=adapters[:MAX_ADAPTERS],
        num_adapters=max(one.num_adapters for one in each),
        recent=tuple(recent((one.now_s, one.recent) for one in each)[:MAX_RECENT]),
        seconds=tuple(_seconds(each)),
    )


def recent(each: Iterable[tuple[float, Iterable[Visit]]]) -> list[Visit]:
    """Of all replicas, (now of its clock, visits); who ended last comes first."""
    now, found = time.monotonic(), list[Visit]()
    for then, visits in each:
        found += [replace(visit, arrived_s=visit.arrived_s + now - then) for visit in visits]
    found.sort(key=lambda visit: -(visit.arrived_s + (visit.total_s or 0.0)))
    return found[:KEPT]


def total_memory(maps: Sequence[MemoryMap]) -> MemoryMap:
    """Who owns the pages of all replicas."""
    owned: dict[str, int] = {}
    for owner in (owner for one in maps for owner in one.owners):
        owned[owner.tenant] = owned.get(owner.tenant, 0) + owner.num_pages
    owners = sorted(owned.items(), key=lambda item: -item[1])
    names = ("num_pages", "free", "cached", "pinned", "own", "adapters", "idle_adapters")
    return MemoryMap(
        page_size=maps[0].page_size,
        owners=tuple(Owned(*one) for one in owners[:MAX_TENANTS]),
        tree=_outline([one.tree for one in maps]),
        **{name: sum(getattr(one, name) for one in maps) for name in names},
    )


# -- internals ---------------------------------------------------------------


def _shares(shares: Iterable[Share]) -> list[Share]:
    """By tenant; how far it is ahead is the sum of how far it is at each replica."""
    found: dict[str, Share] = {}
    for share in shares:
        old = found.get(share.tenant)
        found[share.tenant] = (
            share
            if old is None
            else Share(
                share.tenant,
                old.running + share.running,
                old.waiting + share.waiting,
                old.service + share.service,
                share.weight,
                old.lag + share.lag,
            )
        )
    return list(found.values())


def _outline(trees: Sequence[Outline]) -> Outline:
    """Each replica's first branches; parents come before their children, so none is orphaned."""
    branches, each = list[Branch](), MAX_BRANCHES // len(trees)
    for tree in trees:
        first = len(branches)
        for branch in tree.branches[:each]:
            parent = branch.parent + first if branch.parent >= 0 else -1
            branches.append(replace(branch, parent=parent))
    nodes, pages = sum(t.num_nodes for t in trees), sum(t.num_pages for t in trees)
    return Outline(tuple(branches), nodes, pages)


def _adapters(each: Sequence[Snapshot]) -> tuple[SeenAdapter, ...]:
    found: dict[str, SeenAdapter] = {}
    for seen in (seen for one in each for seen in one.adapters):
        old = found.get(seen.info.name)
        if old is not None:
            resident = old.is_resident or seen.is_resident
            seen = replace(seen, is_resident=resident, users=old.users + seen.users)
        found[seen.info.name] = seen
    order = sorted(found.values(), key=lambda s: (-s.users, not s.is_resident, s.info.name))
    return tuple(order)


def _seconds(each: Sequence[Snapshot]) -> list[Second]:
    """The same number of seconds back from now."""
    found = []
    for seconds in zip(*(one.seconds for one in each)):
        total = Second(seconds[0].at)
        for second in seconds:
            total = replace(add(total, second), at=total.at)
        found.append(total)
    return found


def _in_turn(lists: Sequence[Sequence[T]]) -> tuple[T, ...]:
    """The first of each, then the second of each, and so on."""
    longest = max(map(len, lists))
    return tuple(items[i] for i in range(longest) for items in lists if i < len(items))
