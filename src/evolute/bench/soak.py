"""Does a server stay whole under everything that people do to it, for as long as asked?

    run(quick, minutes=60)      mixed traffic on our own server; raises SoakFailed
    drift(samples)              growth over the second half, as a part of its mean
    spread(samples)             how far its levels lie apart, as such a part

Gates, on counts: no error that is not the client's; after the last visitor left, nothing is in
flight; each page is free, cached or an adapter's, and free once these are gone; the engine had
nothing to repair. The drifts of memory and of Python's blocks are figures, gates from LONG_MIN on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import itertools
import json
import math
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from evolute.bench.load import ServerProcess, own_server
from evolute.bench.load.connection import Connections
from evolute.bench.result import BenchResult
from evolute.bench.soak_patience import Patience
from evolute.bench.soak_traffic import NO_HEADERS, SoakPlan, Traffic
from evolute.engine import EngineConfig
from evolute.models import LoadedModel, LoraConfig, LoraWeights, load_model, save_peft
from evolute.telemetry import progress
from evolute.types import BackendError, ConfigError

MINUTES, QUICK_MIN, LONG_MIN = 60.0, 0.5, 30.0
WARM_FROM_MIN = 5.0  # shorter ones are not about memory
VISITORS = 12
DRAIN_S = 60.0
BLOCKS_S = 10.0
BLOCKS = re.compile(r"^evolute_server_python_blocks (\S+)$", re.MULTILINE)
MAX_DRIFT = 0.03
LEVELS = 12  # of a half
POOL_TOKENS = 6_000  # so few that pages are evicted and sequences preempted
RANKS = (2, 4, 8)
MAX_UPLOAD = 8 << 20  # weights up to this size also come as bytes
MAX_TOLD = 10


class SoakFailed(BackendError):
    """The server did not stay whole; the text says what was found."""


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "tiny",
    config: EngineConfig | None = None,
    repeats: int = 1,
    minutes: float | None = None,
    seed: int = 0,
) -> BenchResult:
    """One run, whatever `repeats`; half a minute when `quick`. Raises SoakFailed."""
    if not isinstance(model, str):
        raise ConfigError("bench soak starts a server of its own; name a model.")
    minutes = minutes or (QUICK_MIN if quick else MINUTES)
    loaded = load_model(model)
    config = config or EngineConfig()
    if config.memory_mb == EngineConfig().memory_mb:
        config = dataclasses.replace(config, memory_mb=_memory_mb(loaded))
    with tempfile.TemporaryDirectory(prefix="evolute-soak-") as folder:
        plan = _plan(model, loaded, Path(folder))
        with own_server(model, _words(config)) as server:
            figures, faults = asyncio.run(_Soak(server, plan, 60 * minutes, seed).run())
    for name in ("memory_drift", "blocks_drift") if minutes >= LONG_MIN else ():
        if abs(figures[name]) > MAX_DRIFT:
            faults.append(f"{name} is {figures[name]:.1%} over the second half")
    if faults:
        raise SoakFailed(f"{len(faults)} faults: " + "; ".join(faults[:MAX_TOLD]))
    settings = {"engine": asdict(config), "minutes": minutes, "visitors": VISITORS, "seed": seed}
    spread = {name: (value, value) for name, value in figures.items()}
    return BenchResult("soak", settings, figures, 1, spread)


def drift(samples: Sequence[tuple[float, float]]) -> float:
    """`samples` are (seconds, size). What the second half grows by, as a part of its mean: the
    median slope between any two of its levels (Theil 1950, Sen 1968), so that neither one burst
    nor the moment of the last look decides."""
    found = levels(samples)
    if len(found) < 2:
        return 0.0
    slopes = [
        (last - first) / (until_s - from_s)
        for (from_s, first), (until_s, last) in itertools.combinations(found, 2)
    ]
    second = samples[len(samples) // 2 :]
    seconds = second[-1][0] - second[0][0]
    return statistics.median(slopes) * seconds / statistics.fmean(size for _, size in second)


def spread(samples: Sequence[tuple[float, float]]) -> float:
    """How far the levels of the second half lie apart, as a part of their mean."""
    sizes = [size for _, size in levels(samples)]
    return (max(sizes) - min(sizes)) / statistics.fmean(sizes) if sizes else 0.0


def levels(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Medians of up to LEVELS stretches of the second half, which have equal numbers of samples."""
    second = samples[len(samples) // 2 :]
    count = min(LEVELS, len(second))
    cuts = [len(second) * i // count for i in range(count + 1)] if count else []
    parts = [list(zip(*second[start:end])) for start, end in itertools.pairwise(cuts)]
    return [(statistics.median(times), statistics.median(sizes)) for times, sizes in parts]


# -- internals ---------------------------------------------------------------


class _Soak:
    def __init__(self, server: ServerProcess, plan: SoakPlan, seconds: float, seed: int) -> None:
        self.server, self.plan, self.seconds = server, plan, seconds
        self.connections = Connections(server.url)
        self.patience = Patience(server.pid)
        self.traffic = Traffic(self.connections, plan, seed, self.patience)
        self.sizes: list[tuple[float, float]] = []  # (seconds, MB)
        self.blocks: list[tuple[float, float]] = []  # (seconds, blocks of Python's objects)

    async def run(self) -> tuple[dict[str, float], list[str]]:
        """Figures, and what is not as it must be."""
        if self.seconds >= 60 * WARM_FROM_MIN:
            await self.traffic.fill_caches()
        started = time.monotonic()
        until_s = started + self.seconds
        watches = [asyncio.ensure_future(one(started)) for one in (self._watch, self._count)]
        visitors = (self.traffic.visit(until_s) for _ in range(VISITORS))
        try:
            await asyncio.gather(*visitors)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
        try:
            stats, faults = await self._drain()
        finally:
            await self.traffic.close()
            await self.connections.close()
        return self._figures(stats), [*self.traffic.errors, *faults]

    async def _watch(self, started: float) -> None:
        """Progress, memory and starvation, once a second."""
        with progress("soak", total=max(round(self.seconds), 1)) as bar:
            while True:
                seconds = time.monotonic() - started
                size = self.server.rss_mb()
                if size is not None:
                    self.sizes.append((seconds, size))
                self.patience.look()
                traffic = self.traffic
                note = f"{traffic.num_requests} requests, {len(traffic.errors)} errors"
                bar.advance(min(int(seconds), round(self.seconds)), f"{note}, {size or 0:.0f} MB")
                await asyncio.sleep(1.0)

    async def _count(self, started: float) -> None:
        """What Python holds, every BLOCKS_S. No answer is for the visitors to find."""
        while True:
            _, text = await self.connections.fetch("GET", "/metrics")
            if found := BLOCKS.search(text):
                self.blocks.append((time.monotonic() - started, float(found[1])))
            await asyncio.sleep(BLOCKS_S)

    async def _drain(self) -> tuple[dict[str, Any], list[str]]:
        """Wait for what clients left behind, then account for every page."""
        faults, stats = list[str](), await self._stats()
        with contextlib.suppress(TimeoutError):
            async with self.patience.limit(DRAIN_S):
                while stats["running"] or stats["waiting"]:
                    await asyncio.sleep(0.1)
                    stats = await self._stats()
        if stats["running"] or stats["waiting"]:
            faults.append(f"{stats['running']} run and {stats['waiting']} wait for nobody")
        faults += _lost(stats)
        _, text = await self.connections.fetch("GET", "/v1/models")
        for name in [one["id"] for one in json.loads(text)["data"]]:
            if name.startswith("soak-"):
                body = json.dumps({"lora_name": name}).encode()
                await self.connections.fetch("POST", "/unload_lora_adapter", body)
        await self.connections.fetch("POST", "/flush_cache")
        empty = await self._stats()
        if empty["free_pages"] != empty["num_pages"]:
            faults.append(f"{empty['free_pages']} of {empty['num_pages']} pages came back")
        if empty["counts"]["repairs"]:
            faults.append(f"the engine repaired its accounts {empty['counts']['repairs']} times")
        return empty, faults

    async def _stats(self) -> dict[str, Any]:
        status, text = await self.connections.fetch("GET", "/stats", headers=NO_HEADERS)
        if status != 200:
            raise SoakFailed(f"/stats answered {status}: {text[:300]}")
        found: dict[str, Any] = json.loads(text)
        return found

    def _figures(self, stats: dict[str, Any]) -> dict[str, float]:
        traffic, counts = self.traffic, stats["counts"]
        engine = ("requests", "finished", "output_tokens", "preemptions", "evicted_pages")
        names = sorted(traffic.done | traffic.refused)
        return {
            "requests": float(traffic.num_requests),
            "errors": float(len(traffic.errors)),
            "memory_drift": drift(self.sizes),
            "memory_spread": spread(self.sizes),
            "memory_mb": self.sizes[-1][1] if self.sizes else math.nan,
            "blocks_drift": drift(self.blocks),
            "python_blocks": self.blocks[-1][1] if self.blocks else math.nan,
            "starved_s": self.patience.starved_s,
            "most_asked_until_gone": float(traffic.most_asked),
            "half_open_ended": float(traffic.num_half_open_ended),
            **{f"done/{name}": float(traffic.done[name]) for name in names},
            **{f"refused/{name}": float(traffic.refused[name]) for name in names},
            **{f"engine/{name}": float(counts[name]) for name in engine},
            "engine/adapter_loads": float(stats["adapter_loads"]["loads"]),
            "engine/weight_version": float(stats["weight_version"]),
        }


def _lost(stats: dict[str, Any]) -> list[str]:
    parts = ("free_pages", "cached_pages", "adapter_pages")
    total = sum(stats[part] for part in parts)
    if total == stats["num_pages"]:
        return []
    told = ", ".join(f"{part} {stats[part]}" for part in parts)
    return [f"{stats['num_pages'] - total} pages were lost: {told} of {stats['num_pages']}"]


def _plan(model: str, loaded: LoadedModel, folder: Path) -> SoakPlan:
    adapters = [_adapter(loaded, folder / f"r{rank}", rank) for rank in RANKS]
    tensors = {n: t for n in loaded.weights if isinstance(t := loaded.weights[n], torch.Tensor)}
    size = sum(tensor.nbytes for tensor in tensors.values())
    weights = b""
    if len(tensors) == len(loaded.weights) and size <= MAX_UPLOAD:
        text = base64.b64encode(save(tensors)).decode()
        weights = json.dumps({"serialized_named_tensors": [text]}).encode()
    return SoakPlan(model, adapters, weights, rare=1.0 if size <= MAX_UPLOAD else 0.2)


def _adapter(loaded: LoadedModel, folder: Path, rank: int) -> str:
    weights = LoraWeights.init(LoraConfig(rank, alpha=float(rank)), loaded.config, rank)
    for _, b in weights.tensors.values():
        b.normal_(std=0.02, generator=torch.Generator().manual_seed(rank))
    save_peft(weights, folder, loaded.name)
    return str(folder)


def _memory_mb(loaded: LoadedModel) -> int:
    return max(-(-POOL_TOKENS * loaded.config.kv_width * 4 // 2**20), 1)


def _words(config: EngineConfig) -> list[str]:
    """What differs from the defaults, as --set takes it."""
    usual, words = asdict(EngineConfig()), []
    for name, value in asdict(config).items():
        if value != usual[name]:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words.append(f"{name}={text.lower() if isinstance(value, bool) else text}")
    return words
