"""Many adapters on one base model: what S-LoRA's conditions A2 to A7 ask for.

    switching    one batch of many adapters / one adapter at a time, here, with merged copies and
                 in plain torch; PEFT itself: benches/adapter_peers.py (A2)
    padded       our products of adapters / padded torch.bmm (A3)
    pools        one pool / the same bytes split once: all sent at once, and arriving faster than
                 either can serve, as in the paper (A4)
    overhead     a decode step with adapters / without (A5)
    thousand     throughput with 1,000 adapters / with 5 (A6)
    prefetch     share of copies hidden; first token with twice what fits / with all resident (A7)

Each ratio is taken between neighbours in time and reported as the median of the repeats with its
range. `quick` does little of everything, once: it shows that the bench works.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from evolute.bench.adapter_work import (
    ATTENTION,
    Done,
    PaddedProducts,
    StaticPlacement,
    Tenants,
    Work,
    make_work,
    poisson,
)
from evolute.bench.result import BenchResult, summarize
from evolute.engine import EngineConfig
from evolute.engine.config import resolve
from evolute.engine.engine import num_cores
from evolute.engine.execution.adapter_loading import LoadCounts
from evolute.models import LoadedModel, load_model

OVERLOAD = (
    1.27  # arrivals a second / what one pool serves: S-LoRA's 2 and 1.576 (its table 3, A10G)
)
STATIC_FRAC = 0.38  # of the pool, to adapters: S-LoRA's own variant kept 9,000 of 14,500 tokens
MIXED = (8, 16, 32, 64)
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a section does."""

    batch: int = 16
    adapters: int = 32
    many: int = 1000
    requests: int = 32
    prompt: int = 32
    output: int = 24
    steps: int = 20


QUICK = Size(batch=4, adapters=6, many=24, requests=8, prompt=12, output=6, steps=4)


@dataclass(frozen=True, slots=True)
class Setting:
    """What every section gets."""

    model: LoadedModel
    config: EngineConfig
    size: Size

    def work(self, adapters: list[int | None], prompt: int = 0, output: int = 0) -> list[Work]:
        size, vocab = self.size, self.model.config.vocab_size
        return make_work(adapters, prompt or size.prompt, output or size.output, vocab)

    def tenants(self, ranks: list[int], **changes: object) -> Tenants:
        given: dict[str, Any] = {"max_running": self.size.batch} | changes
        return Tenants(self.model, dataclasses.replace(self.config, **given), ranks)

    def page_mb(self) -> float:
        resolved = resolve(self.config, self.model.config, cores=num_cores(), has_native=True)
        return resolved.page_bytes / 2**20

    def pages_of(self, rank: int) -> int:
        floats = sum(sum(self.model.config.linear_shape(m)) for m in ATTENTION)
        return -(-rank * floats * self.model.config.num_layers * 4 // int(self.page_mb() * 2**20))


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All sections. Where two ways must give the same answers, they are compared here."""
    loaded = load_model(model) if isinstance(model, str) else model
    setting = Setting(loaded, config or EngineConfig(), QUICK if quick else Size())
    n = 1 if quick else repeats
    figures: Figures = {}
    spread: dict[str, tuple[float, float]] = {}
    for name, section in SECTIONS.items():
        median, ranges = summarize(section(setting, n))
        figures |= {f"{name}/{key}": value for key, value in median.items()}
        spread |= {f"{name}/{key}": value for key, value in ranges.items()}
    chosen = {"engine": asdict(setting.config), "size": asdict(setting.size)}
    return BenchResult("adapters", chosen, figures, n, spread)


# -- internals ---------------------------------------------------------------


def _switching(setting: Setting, n: int) -> list[Figures]:
    """Requests of as many adapters, outputs as long as prompts (the paper draws both alike):
    together; one after the other; so with merged weights, which is a base request each, switching
    for nothing; and in plain torch, as PEFT does it, a quarter of them."""
    size = setting.size
    ranks = [MIXED[i % 4] for i in range(size.adapters)]
    plain_torch = {"executor": "torch", "precision": "float32"}
    tenants, torch_like = setting.tenants(ranks), setting.tenants(ranks, **plain_torch)
    work = setting.work(list(range(size.adapters)), output=size.prompt)
    plain = [dataclasses.replace(one, adapter=None) for one in work]
    rounds = []
    for _ in range(n):
        mixed = tenants.run(work, size.batch)
        switched = tenants.run(work, 1)
        merged = tenants.run(plain, 1)
        in_torch = torch_like.run(work[: max(4, size.adapters // 4)], 1)
        assert mixed.outputs == switched.outputs, "mixing adapters changed an answer"
        rounds.append(
            {
                "tokens_per_s": mixed.tokens_per_s,
                "over_one_at_a_time": mixed.tokens_per_s / switched.tokens_per_s,
                "over_merged_copies": mixed.tokens_per_s / merged.tokens_per_s,
                "over_torch_one_at_a_time": mixed.tokens_per_s / in_torch.tokens_per_s,
            }
        )
    tenants.close()
    torch_like.close()
    return rounds


def _padded(setting: Setting, n: int) -> list[Figures]:
    """Ragged prompts of mixed ranks; ours is the time that adapters add to the prefill."""
    size, dice = setting.size, random.Random(0)
    ranks = [MIXED[i % 4] for i in range(size.batch)]
    lengths = [dice.randrange(size.prompt // 4, size.prompt * 4) for _ in ranks]
    tenants = setting.tenants(ranks, prefix_cache=False, max_running=2 * size.batch)
    work = [setting.work([i], prompt=length)[0] for i, length in enumerate(lengths)]
    groups = {"with": work, "base": [dataclasses.replace(one, adapter=None) for one in work]}
    padded = PaddedProducts(setting.model, ranks, lengths, ATTENTION)
    rounds = []
    for _ in range(n):
        took = tenants.alternate(groups, 5, prompts=True, beside={"bmm": padded.run})
        ours = statistics.median(a - b for a, b in zip(took["with"], took["base"]))
        theirs = statistics.median(took["bmm"])
        rounds.append({"ours_s": ours, "bmm_s": theirs, "over_bmm": theirs / max(ours, 1e-4)})
    tenants.close()
    return rounds


def _pools(setting: Setting, n: int) -> list[Figures]:
    """Two mixes on a tight pool: few adapters with long outputs, many adapters with short ones. The
    static split is the same for both."""
    size = setting.size
    ranks = [(8, 16, 32)[i % 3] for i in range(size.adapters)]
    longest = setting.pages_of(32) + -(-(size.prompt + 2 * size.output) // setting.config.page_size)
    num_pages = max(3 * longest, 4)
    memory_mb = -(-int(num_pages * setting.page_mb() * 1000) // 1000) + 1
    one, split = (setting.tenants(ranks, memory_mb=memory_mb, policy="fcfs") for _ in range(2))
    total = split.core.placement.pool.num_pages
    split.core.placement = StaticPlacement(split.core.placement, int(total * STATIC_FRAC))
    mixes = {
        "few": setting.work([i % 2 for i in range(size.requests // 2)], output=size.output * 2),
        "many": setting.work([i % size.adapters for i in range(size.requests)]),
    }
    rounds = []
    for _ in range(n):
        figures: Figures = {}
        for name, work in mixes.items():
            ours, theirs = (t.run(work, size.requests) for t in (one, split))
            _compare(figures, name, ours, theirs)
        rate = OVERLOAD * size.requests / ours.seconds
        arrivals = poisson(rate, 2 * size.requests)
        work = setting.work([i % size.adapters for i in range(len(arrivals))])
        _compare(figures, "arriving", *(t.run_arriving(work, arrivals) for t in (one, split)))
        rounds.append(figures)
    one.close()
    split.close()
    return rounds


def _compare(figures: Figures, name: str, ours: Done, theirs: Done) -> None:
    assert ours.outputs == theirs.outputs, "the pool changed an answer"
    figures[f"{name}_over_static"] = ours.tokens_per_s / theirs.tokens_per_s
    figures[f"{name}_first_token_of_static"] = theirs.first_token_s / ours.first_token_s


def _overhead(setting: Setting, n: int) -> list[Figures]:
    size = setting.size
    ranks = [8] * size.batch + [MIXED[i % 4] for i in range(size.batch)]
    tenants = setting.tenants(ranks, prefix_cache=False, max_running=3 * size.batch)
    groups = {
        "base": setting.work([None] * size.batch),
        "rank_8": setting.work(list(range(size.batch))),
        "mixed_8_to_64": setting.work(list(range(size.batch, 2 * size.batch))),
    }
    rounds = []
    for _ in range(n):
        took = tenants.alternate(groups, size.steps)
        figures = {"base_step_s": statistics.median(took["base"])}
        for name in ("rank_8", "mixed_8_to_64"):
            ratio = statistics.median(a / b for a, b in zip(took[name], took["base"]))
            figures[name] = ratio - 1
        rounds.append(figures)
    tenants.close()
    return rounds


def _thousand(setting: Setting, n: int) -> list[Figures]:
    size, dice = setting.size, random.Random(0)
    tenants = setting.tenants([8] * size.many)
    many: list[int | None] = [dice.randrange(size.many) for _ in range(size.requests)]
    few: list[int | None] = [index % 5 for index in many if index is not None]
    rounds = []
    for _ in range(n):
        wide, narrow = (tenants.run(setting.work(a), 2 * size.batch) for a in (many, few))
        rounds.append(
            {
                "tokens_per_s": wide.tokens_per_s,
                "over_5": wide.tokens_per_s / narrow.tokens_per_s,
                "host_mb": tenants.core.loader.num_bytes / 2**20,
            }
        )
    tenants.close()
    return rounds


def _prefetch(setting: Setting, n: int) -> list[Figures]:
    """Adapters of which half fit beside the keys of a full batch, which uses half of those. The
    first batch of a run finds no step beside which it could be copied, so it is told apart."""
    size, dice = setting.size, random.Random(0)
    most = size.batch // 2  # that run at once: as many again of the adapters fit
    keys = most * (-(-(size.prompt + 2 * size.output) // setting.config.page_size) + 1)
    adapters = [8] * size.adapters
    fits = sum(setting.pages_of(rank) for rank in adapters) // 2
    tight_mb = int((keys + fits) * setting.page_mb()) + 1
    ample_mb = int((keys + 3 * fits) * setting.page_mb()) + 1
    tight, ample = (
        setting.tenants(adapters, memory_mb=memory_mb, prefix_cache=False, max_running=most)
        for memory_mb in (tight_mb, ample_mb)
    )
    whose: list[int | None] = [dice.randrange(size.adapters) for _ in range(size.requests)]
    work = [  # of ragged lengths: equal ones would end and begin all at once
        dataclasses.replace(one, max_new_tokens=size.output // 2 + dice.randrange(size.output))
        for one in setting.work(whose)
    ]
    for tenants in (tight, ample):  # there all are resident from now on
        tenants.run(work, size.batch)
    rounds = []
    for _ in range(n):
        before = tight.loads
        short, long = (t.run(work, size.batch) for t in (tight, ample))
        started, after = tight.loads_at_start, tight.loads
        rounds.append(
            {
                **_hidden("hidden_frac", started, after),
                **_hidden("hidden_frac_with_start", before, after),
                "loads": float(after.loads - before.loads),
                "loads_at_start": float(started.loads - before.loads),
                "waited_ms_per_request": 1e3 * (after.waited_s - before.waited_s) / len(work),
                "first_token_over_resident": short.first_token_s / long.first_token_s,
            }
        )
    tight.close()
    ample.close()
    return rounds


def _hidden(name: str, before: LoadCounts, after: LoadCounts) -> Figures:
    """The part of the copies' time for which no step waited; nothing when none was copied."""
    copied, waited = after.copy_s - before.copy_s, after.waited_s - before.waited_s
    return {name: 1 - waited / copied} if copied else {}


SECTIONS: dict[str, Callable[[Setting, int], list[Figures]]] = {
    "switching": _switching,
    "padded": _padded,
    "pools": _pools,
    "overhead": _overhead,
    "thousand": _thousand,
    "prefetch": _prefetch,
}
