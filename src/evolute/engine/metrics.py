"""What the engine tells Prometheus; refreshed after each step."""

from __future__ import annotations

from evolute.engine.core import EngineCore
from evolute.engine.counts import Counts
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
FORCED = gauge("engine/forced_tokens_total", "tokens computed ahead that a grammar forces")
JUMPED = gauge("engine/jumped_tokens_total", "forced tokens that the sampler drew too")
PREEMPTIONS = gauge("engine/preemptions_total", "sequences sent back to the queue")
TIER_PAGES = gauge("engine/tier_pages", "evicted pages that the second tier holds")
TIER_HITS = gauge("engine/tier_hits_total", "admissions that got pages back from the second tier")
TIER_RESTORED = gauge("engine/tier_restored_tokens_total", "tokens copied back, not computed")
TIER_WRITTEN = gauge("engine/tier_written_pages_total", "evicted pages copied to the second tier")
TIER_DROPPED = gauge("engine/tier_dropped_pages_total", "evicted pages that were not copied")
TIER_WAIT = gauge("engine/tier_restore_seconds_total", "time that steps waited for copies back")
TIER_FAULTS = gauge("engine/tier_faults_total", "slots that did not hold what was written")
LATE = gauge("engine/late_total", "outputs ended before a first token that would be too late")
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
    tier = core.placement.tier
    TIER_PAGES.set(tier.num_pages)
    TIER_HITS.set(tier.counts.hits)
    TIER_RESTORED.set(tier.counts.restored_tokens)
    TIER_WRITTEN.set(tier.counts.written_pages)
    TIER_DROPPED.set(tier.counts.dropped_pages)
    TIER_WAIT.set(tier.counts.restore_s)
    TIER_FAULTS.set(tier.counts.faults)
    show_counts(core.counts)


def show_counts(counts: Counts) -> None:
    """What was done since the start."""
    STEPS.set(counts.steps)
    COMPUTED.set(counts.computed_tokens)
    CACHED.set(counts.cached_tokens)
    OUTPUT.set(counts.output_tokens)
    DRAFTED.set(counts.drafted_tokens)
    ACCEPTED.set(counts.accepted_tokens)
    FORCED.set(counts.forced_tokens)
    JUMPED.set(counts.jumped_tokens)
    PREEMPTIONS.set(counts.preemptions)
    LATE.set(counts.late)
    REPAIRS.set(counts.repairs)
