"""What the engine tells Prometheus; refreshed after each step."""

from __future__ import annotations

from evolute.engine.core import Counts, EngineCore
from evolute.telemetry import gauge

RUNNING = gauge("engine/running_requests", "sequences being computed")
WAITING = gauge("engine/waiting_requests", "sequences in the queue")
FREE_PAGES = gauge("engine/free_pages", "pages of keys and values that nobody uses")
CACHED_PAGES = gauge("engine/cached_pages", "pages held by the prefix cache")
ADAPTER_PAGES = gauge("engine/adapter_pages", "pages held by resident adapters")
ADAPTERS = gauge("engine/resident_adapters", "adapters that lie in pages")
ADAPTER_LOADS = gauge("engine/adapter_loads_total", "copies of adapters to pages")
ADAPTER_WAIT = gauge("engine/adapter_wait_seconds_total", "time that steps waited for copies")
STEPS = gauge("engine/steps_total", "forward passes since the start")
COMPUTED = gauge("engine/computed_tokens_total", "tokens computed since the start")
CACHED = gauge("engine/cached_tokens_total", "prompt tokens found in the prefix cache")
OUTPUT = gauge("engine/output_tokens_total", "tokens sampled since the start")
DRAFTED = gauge("engine/drafted_tokens_total", "tokens guessed and computed ahead")
ACCEPTED = gauge("engine/accepted_tokens_total", "guessed tokens that the sampler drew too")
PREEMPTIONS = gauge("engine/preemptions_total", "sequences sent back to the queue")
REPAIRS = gauge("engine/repairs_total", "faults in the accounts of pages, found and put right")


def refresh(core: EngineCore) -> None:
    """Copy the core's exact counts."""
    RUNNING.set(len(core.running))
    WAITING.set(core.num_waiting)
    FREE_PAGES.set(core.placement.pool.num_free)
    CACHED_PAGES.set(core.placement.cache.num_pages)
    ADAPTER_PAGES.set(core.placement.adapters.num_pages)
    ADAPTERS.set(core.placement.adapters.num_resident)
    ADAPTER_LOADS.set(core.loader.counts.loads)
    ADAPTER_WAIT.set(core.loader.counts.waited_s)
    show_counts(core.counts)


def show_counts(counts: Counts) -> None:
    """What was done since the start."""
    STEPS.set(counts.steps)
    COMPUTED.set(counts.computed_tokens)
    CACHED.set(counts.cached_tokens)
    OUTPUT.set(counts.output_tokens)
    DRAFTED.set(counts.drafted_tokens)
    ACCEPTED.set(counts.accepted_tokens)
    PREEMPTIONS.set(counts.preemptions)
    REPAIRS.set(counts.repairs)
