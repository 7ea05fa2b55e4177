"""The parts of the adapter bench: many adapters, closed-loop work on a core, and baselines.

Tenants(model, config, ranks, ...)    a core with adapters; `run` sends work, `run_arriving` too
StaticPlacement                       the same memory, split once between adapters and keys
PaddedProducts(...)                   the adapters' products as padded batches in torch
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from evolute.engine import EngineConfig
from evolute.engine.adapters import AdapterTable
from evolute.engine.build import build_core
from evolute.engine.engine import num_cores
from evolute.engine.execution.adapter_loading import LoadCounts
from evolute.engine.execution.batch import Segment, build_batch
from evolute.engine.memory import PageId
from evolute.engine.output import Draft
from evolute.engine.scheduling import Candidate, Placement
from evolute.engine.scheduling import Sequence as Running
from evolute.models import LoadedModel, LoraConfig, LoraWeights
from evolute.types import GenerateRequest, SamplingParams

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")  # what the paper's adapters change
NUM_DRAWN = 8  # adapters with random numbers of their own; others are multiples of them


@dataclass(frozen=True, slots=True)
class Work:
    """One request: whose adapter (None: the base), and how much."""

    adapter: int | None
    prompt: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Done:
    """What a run cost."""

    seconds: float
    output_tokens: int
    first_token_s: float  # mean, from when the request was sent
    outputs: tuple[tuple[int, ...], ...]

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds


class Tenants:
    """A core and its adapters, driven step by step by the caller's thread."""

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        ranks: Sequence[int],
        targets: tuple[str, ...] = ATTENTION,
    ) -> None:
        self.core = build_core(model, config, cores=num_cores())
        self.table = AdapterTable(self.core, model.config, model.weights)
        for index, weights in enumerate(_adapters(model, ranks, targets)):
            self.table.load(f"a{index}", weights, 1)
        self.loads_at_start = self.loads  # of the last run, by the end of its first step

    @property
    def loads(self) -> LoadCounts:
        """Copies of adapters until now."""
        return dataclasses.replace(self.core.loader.counts)

    def run(self, work: Sequence[Work], concurrency: int) -> Done:
        """Closed loop: as one ends, the next is sent. Starts with an empty prefix cache."""
        return self._drive(work, lambda now, sent, flying: flying < concurrency, [])

    def run_arriving(self, work: Sequence[Work], arrivals: Sequence[float]) -> Done:
        """Open loop: each is sent at its moment, in seconds from the start, which rise; first
        tokens are counted from these moments."""
        return self._drive(work, lambda now, sent, flying: now >= arrivals[sent], arrivals)

    def _drive(
        self,
        work: Sequence[Work],
        is_due: Callable[[float, int, int], bool],
        arrivals: Sequence[float],
    ) -> Done:
        self.core.flush()
        flying, done = dict[Draft, float](), list[Draft]()
        firsts: dict[Draft, float] = {}
        sent, started = 0, time.perf_counter()
        while sent < len(work) or flying:
            now = time.perf_counter() - started
            while sent < len(work) and is_due(now, sent, len(flying)):
                draft = self._send(work[sent])
                flying[draft] = arrivals[sent] if arrivals else time.perf_counter() - started
                sent += 1
            if not flying:
                time.sleep(max(arrivals[sent] - now, 0.0))
                continue
            events = self.core.step()
            if not firsts:
                self.loads_at_start = self.loads
            now = time.perf_counter() - started
            for event in events:
                firsts.setdefault(event.draft, now - flying[event.draft])
                if event.delta.output is not None:
                    del flying[event.draft]
                    done.append(event.draft)
        seconds = time.perf_counter() - started
        made = sum(len(draft.token_ids) for draft in done)
        done.sort(key=lambda draft: draft.sequence.id)
        outputs = tuple(tuple(draft.token_ids) for draft in done)
        return Done(seconds, made, statistics.mean(firsts.values()), outputs)

    def alternate(
        self,
        groups: Mapping[str, Sequence[Work]],
        repeats: int,
        *,
        prompts: bool = False,
        beside: Mapping[str, Callable[[], None]] | None = None,
    ) -> dict[str, list[float]]:
        """Seconds of one forward pass of each group and of what is called `beside` them, in turn,
        so that all meet the same machine: a token of each request, or (`prompts`) all of its
        prompt."""
        drafts = {name: [self._send(one) for one in work] for name, work in groups.items()}
        every = [draft for group in drafts.values() for draft in group]
        while any(not draft.token_ids for draft in every):
            self.core.step()
        forward = self.core.executor.forward
        calls: dict[str, Callable[[], object]] = {
            name: partial(forward, build_batch([_segment(draft, prompts) for draft in group]))
            for name, group in drafts.items()
        }
        calls |= beside or {}
        took: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                call()
                took[name].append(time.perf_counter() - started)
        self.core.abort(every)
        return {name: seconds[1:] for name, seconds in took.items()}  # the first warms

    def close(self) -> None:
        self.core.loader.close()

    def _send(self, work: Work) -> Draft:
        sampling = SamplingParams(
            temperature=0, max_new_tokens=work.max_new_tokens, ignore_eos=True
        )
        name = None if work.adapter is None else f"a{work.adapter}"
        request = GenerateRequest(work.prompt, sampling, name)
        (draft,) = self.core.add(request, *self.table.resolve(request))
        return draft


class StaticPlacement(Placement):
    """Adapters have `num_adapter_pages` of the pool and keys the rest, whatever is needed.

    A newcomer whose adapter finds no place waits, and with it whoever stands behind it. For a
    queue that looks nobody up to order them (fcfs): a look-up is a promise.
    """

    def __init__(self, placement: Placement, num_adapter_pages: int) -> None:
        self.__dict__ = dict(placement.__dict__)
        pages = self.pool.allocate(num_adapter_pages)
        assert pages is not None, "the adapters' part is larger than the pool"
        self._spare, self._promised = pages, set[int]()

    @property
    def num_available(self) -> int:
        self._promised = set()  # read once a step, before anybody is looked up
        return self.pool.num_free + self.cache.num_evictable

    def look_up(self, sequence: Running) -> Candidate:
        found = super().look_up(sequence)
        adapter, adapters = sequence.adapter, self.adapters
        room = len(self._spare) + adapters.num_idle_pages
        room -= sum(adapters.cost(other) for other in self._promised)
        fits = adapter in self._promised or adapters.cost(adapter) <= room
        if fits:
            self._promised.add(adapter)
        cost = 0 if fits else self.pool.num_pages
        return found._replace(adapter_pages=cost)

    def cached_tokens(self) -> Callable[[Running], int]:
        """Nothing is remembered: who is looked up is promised a place."""
        return lambda sequence: self.look_up(sequence).num_cached

    def prefetch(self, sequences: Iterable[Running]) -> None:
        """None of it."""

    def _allocate(self, count: int, *, spare_expected: bool = False) -> list[PageId] | None:
        self._make_room(count, self._evict_cached)
        return self.pool.allocate(count)

    def _hold_adapter(self, adapter: int) -> None:
        if self.adapters.hold(adapter):
            return
        size = self.adapters.size(adapter)
        if len(self._spare) < size:
            self._spare += self.adapters.evict(size - len(self._spare))
        pages, self._spare = self._spare[:size], self._spare[size:]
        self.adapters.put(adapter, pages)
        self.adapters.hold(adapter)


class PaddedProducts:
    """The adapters' products as torch.bmm: every request's A and B copied to the largest rank,
    every prompt padded to the longest, and what comes out added to the rows that are there."""

    def __init__(
        self,
        model: LoadedModel,
        ranks: Sequence[int],
        lengths: Sequence[int],
        targets: tuple[str, ...],
    ) -> None:
        self.rank, self.lengths = max(ranks), lengths
        self.num_layers, total = model.config.num_layers, sum(lengths)
        self.modules = []
        for module in targets:
            outputs, inputs = model.config.linear_shape(module)
            pairs = [(torch.randn(r, inputs), torch.randn(r, outputs)) for r in ranks]
            self.modules.append((pairs, torch.randn(total, inputs), torch.randn(total, outputs)))

    def run(self) -> None:
        """One pass of all layers."""
        for _ in range(self.num_layers):
            for pairs, x, y in self.modules:
                self._add(pairs, x, y)

    def _add(self, pairs: list[tuple[Tensor, Tensor]], x: Tensor, y: Tensor) -> None:
        batch, longest = len(pairs), max(self.lengths)
        a = torch.zeros(batch, x.shape[1], self.rank)
        b = torch.zeros(batch, self.rank, y.shape[1])
        for i, (down, up) in enumerate(pairs):
            a[i, :, : len(down)] = down.T
            b[i, : len(up)] = up
        rows = torch.zeros(batch, longest, x.shape[1])
        for i, part in enumerate(torch.split(x, list(self.lengths))):
            rows[i, : len(part)] = part
        found = torch.bmm(torch.bmm(rows, a), b)
        for i, part in enumerate(torch.split(y, list(self.lengths))):
            part += found[i, : len(part)]


def poisson(rate: float, count: int, seed: int = 0) -> list[float]:
    """Moments of arrival, `rate` a second."""
    dice = random.Random(seed)
    return list(itertools.accumulate(dice.expovariate(rate) for _ in range(count)))


def make_work(
    adapters: Sequence[int | None], prompt: int, output: int, vocab_size: int, seed: int = 0
) -> list[Work]:
    dice = random.Random(seed)
    return [
        Work(adapter, tuple(dice.randrange(16, vocab_size) for _ in range(prompt)), output)
        for adapter in adapters
    ]


# -- internals ---------------------------------------------------------------


def _segment(draft: Draft, prompts: bool) -> Segment:
    sequence = draft.sequence
    start = 0 if prompts else sequence.num_tokens - 1
    end = sequence.prompt_len if prompts else sequence.num_tokens
    return Segment(
        sequence.tokens[start:end], start, list(sequence.pages), sequence.adapter, end - 1
    )


def _adapters(
    model: LoadedModel, ranks: Sequence[int], targets: tuple[str, ...]
) -> list[LoraWeights]:
    """Random ones; from the NUM_DRAWN-th of a rank on, multiples of those before."""
    drawn: dict[int, list[LoraWeights]] = {}
    for index, rank in enumerate(ranks):
        same = drawn.setdefault(rank, [])
        if len(same) < NUM_DRAWN:
            config = LoraConfig(rank, alpha=float(rank), targets=targets)
            weights = LoraWeights.init(config, model.config, index)
            generator = torch.Generator().manual_seed(index)
            for _, b in weights.tensors.values():
                b.normal_(std=0.02, generator=generator)
            same.append(weights)
    counts = dict.fromkeys(drawn, 0)
    found = []
    for rank in ranks:
        number, same = counts[rank], drawn[rank]
        counts[rank] += 1
        source, factor = same[number % len(same)], float(np.float32(0.9 ** (number // len(same))))
        config = LoraConfig(rank, alpha=rank * factor, targets=targets)
        found.append(LoraWeights(config, source.tensors))
    return found
