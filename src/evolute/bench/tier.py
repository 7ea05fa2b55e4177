"""What does a second tier bring? Sessions that come back after the pool has forgotten them.

Sessions take turns, one request at a time; each turn is everything before and new tokens. All
that they hold at the end is WORKING_SET times the pool, so the pool alone finds nothing of an
older turn. Engines without and with the tier (`engine.tier`, disk unless set) take turns, each
started anew. Counts are exact; `ratio/...` are without by with, of rounds that follow one
another. The answers' digests of both must be equal; else `notes` says so.
"""

from __future__ import annotations

import dataclasses
import random
import time
from dataclasses import asdict, dataclass

from evolute.bench.result import BenchResult, digest_of, one_digest, summarize
from evolute.engine import Engine, EngineConfig, resolve
from evolute.models import LoadedModel, load_model
from evolute.types import SamplingParams

WORKING_SET = 4.0
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """Of a session, in tokens; the pool holds `held` of them at their longest."""

    turns: int = 4
    first: int = 256  # of the first turn
    more: int = 128  # of each following one
    output: int = 8
    held: float = 2.0

    @property
    def longest(self) -> int:
        return self.first + (self.turns - 1) * self.more + self.turns * self.output


QUICK = Size(2, 64, 32, 4, 2.0)


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """Both engines, `repeats` times; `quick` once, with short sessions."""
    loaded = load_model(model) if isinstance(model, str) else model
    size, n = QUICK if quick else Size(), 1 if quick else repeats
    without, tiered, sessions = plan(loaded, config or EngineConfig(), size)
    rounds, digests = [], []
    for _ in range(n):
        figures: Figures = {}
        for name, one in (("none", without), ("tier", tiered)):
            found, digest = measure(loaded, one, size, sessions)
            figures |= {f"{name}/{key}": value for key, value in found.items()}
            digests.append(digest)
        for key in ("computed_tokens", "seconds"):
            figures[f"ratio/{key}"] = figures[f"none/{key}"] / figures[f"tier/{key}"]
        rounds.append(figures)
    median, spread = summarize(rounds)
    notes = () if len(set(digests)) == 1 else ("the answers with the tier differ",)
    settings = {"engine": asdict(tiered), "size": asdict(size), "sessions": sessions}
    return BenchResult("tier", settings, median, n, spread, one_digest(digests), notes)


def plan(
    model: LoadedModel, config: EngineConfig, size: Size
) -> tuple[EngineConfig, EngineConfig, int]:
    """Settings without and with the tier, and how many sessions there are. Memory is whole MB, so
    of a small model the pool may hold more sessions than `size` says, and there are more."""
    resolved = resolve(config, model.config, cores=1, has_native=True)
    token_bytes = resolved.page_bytes / config.page_size
    memory_mb = -int(-size.held * size.longest * token_bytes // 2**20)
    sessions = -int(-WORKING_SET * memory_mb * 2**20 // (size.longest * token_bytes))
    tier_mb = -int(-2 * sessions * size.longest * token_bytes // 2**20)
    without = dataclasses.replace(
        config, memory_mb=memory_mb, tier="none", tier_dir="", tier_restore="measured"
    )
    tiered = dataclasses.replace(
        config,
        memory_mb=memory_mb,
        tier=config.tier if config.tier != "none" else "disk",
        tier_mb=tier_mb,
    )
    return without, tiered, sessions


def measure(
    model: LoadedModel, config: EngineConfig, size: Size, sessions: int
) -> tuple[Figures, str]:
    """All turns of all sessions, on an engine of its own."""
    draw, vocab = random.Random(0), model.config.vocab_size
    sampling = SamplingParams(temperature=0, max_new_tokens=size.output, ignore_eos=True)
    texts: list[list[int]] = [[] for _ in range(sessions)]
    answers = []
    with Engine(model, config) as engine:
        engine.generate([[1] * size.first], sampling)  # warms the code
        engine.flush_cache()
        before, started = engine.stats(), time.perf_counter()
        for turn in range(size.turns):
            for number, text in enumerate(texts):
                text += [draw.randrange(vocab) for _ in range(size.more if turn else size.first)]
                (output,) = engine.generate([text], sampling)
                text += output.token_ids
                answers.append((f"{turn}/{number}", output.token_ids))
        seconds, after = time.perf_counter() - started, engine.stats()
    restored = after.tier.restored_pages
    return {
        "seconds": seconds,
        "computed_tokens": float(after.counts.computed_tokens - before.counts.computed_tokens),
        "cached_tokens": float(after.counts.cached_tokens - before.counts.cached_tokens),
        "restored_tokens": float(after.tier.restored_tokens),
        "restore_ms_a_page": 1000 * after.tier.restore_s / restored if restored else 0.0,
        "written_pages": float(after.tier.written_pages),
        "dropped_pages": float(after.tier.dropped_pages),
        "declined": float(after.tier.declined),
        "faults": float(after.tier.faults),
    }, digest_of(answers)
