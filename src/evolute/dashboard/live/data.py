"""A snapshot of an engine as the plain values that `/dashboard/data` answers.

    plain(snapshot, model, config) -> dict

Salts of namespaces are secrets of those who chose them: only that there is one is told.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from evolute.engine import EngineConfig, Snapshot

SETTINGS = ("policy", "max_running", "max_waiting", "token_budget")


def plain(snapshot: Snapshot, model: str, config: EngineConfig) -> dict[str, Any]:
    """Numbers that are not finite become None: JSON has none."""
    stats = snapshot.stats
    found = {
        "model": model,
        "weight_version": stats.weight_version,
        "tenant": snapshot.tenant,
        "settings": {name: getattr(config, name) for name in SETTINGS},
        "counts": dataclasses.asdict(stats.counts),
        "queues": {
            "running": stats.running,  # everybody's
            "waiting": stats.waiting,
            "limit": stats.limit,
            "shown_of": [snapshot.num_running, snapshot.num_waiting],
            "running_requests": [_in_flight(one) for one in snapshot.running],
            "waiting_requests": [_in_flight(one) for one in snapshot.waiting],
        },
        "memory": _memory(snapshot),
        "tenants": [dataclasses.asdict(share) for share in snapshot.tenants],
        "num_tenants": snapshot.num_tenants,
        "adapters": [_adapter(one) for one in snapshot.adapters],
        "num_adapters": snapshot.num_adapters,
        "adapter_loads": dataclasses.asdict(stats.adapter_loads),
        "recent": [_visit(one, snapshot.now_s) for one in snapshot.recent],
        "seconds": [
            [s.output_tokens, s.computed_tokens, s.cached_tokens, s.finished]
            for s in snapshot.seconds
        ],
    }
    return {name: _finite(value) for name, value in found.items()}


# -- internals ---------------------------------------------------------------


def _in_flight(one: Any) -> dict[str, Any]:
    return {
        **dataclasses.asdict(one.where),
        "adapter": one.adapter,
        "age_s": one.age_s,
        "own_pages": one.num_pages,
    }


def _memory(snapshot: Snapshot) -> dict[str, Any]:
    memory = snapshot.memory
    spaces: dict[Any, int] = {}
    branches = []
    for branch in memory.tree.branches:
        row = dataclasses.asdict(branch)
        row["space"] = spaces.setdefault(row.pop("namespace"), len(spaces))
        branches.append(row)
    tree = {
        "spaces": [_space(name) for name in spaces],
        "branches": branches,
        "num_nodes": memory.tree.num_nodes,
        "num_pages": memory.tree.num_pages,
    }
    names = [field.name for field in dataclasses.fields(memory) if field.name != "tree"]
    values = {name: getattr(memory, name) for name in names}
    return values | {"owners": [dataclasses.asdict(o) for o in memory.owners], "tree": tree}


def _space(namespace: Any) -> dict[str, Any]:
    if namespace is None:
        return {"adapter": None, "version": None, "is_salted": False, "is_stale": True}
    adapter, version, salt = namespace
    return {
        "adapter": adapter,
        "version": version,
        "is_salted": bool(salt),
        "is_stale": False,
    }


def _adapter(one: Any) -> dict[str, Any]:
    info = one.info
    return {
        "name": info.name,
        "version": info.version,
        "fingerprint": info.fingerprint[:12],
        "rank": info.rank,
        "num_pages": info.num_pages,
        "num_bytes": info.num_bytes,
        "is_paged": one.is_paged,
        "is_resident": one.is_resident,
        "users": one.users,
    }


def _visit(visit: Any, now_s: float) -> dict[str, Any]:
    row = dataclasses.asdict(visit)
    row["ended_ago_s"] = now_s - row.pop("arrived_s") - (visit.total_s or 0.0)
    return row


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
