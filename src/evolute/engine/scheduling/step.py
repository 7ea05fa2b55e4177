"""One scheduling step: which tokens does the model compute next? Pure; nothing is touched.

Decodes go first, one token each, so that running requests never stall behind a long prompt.
When pages are short, victims are preempted and start over later: those with the fewest
generated tokens, then those admitted last. What is left of the token budget goes to prompts
already begun, then to newly admitted ones, in the policy's order.
An adapter's pages count with the first newcomer that needs it. Guessed tokens (`speculation.py`)
get what nobody else wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from evolute.engine.memory import AdapterId
from evolute.engine.scheduling.clustering import Clustering
from evolute.engine.scheduling.policies.policy import CachedTokens, Policy
from evolute.engine.scheduling.sequence import Sequence

RESERVE_FRAC = 0.3  # of the output a newcomer may still make is kept free at admission
MAX_SKIPPED = 256  # waiting sequences that a step looks past before it gives up
SIBLING = "a running sequence is computing its prefix now; soon it will be in the cache"


class Chunk(NamedTuple):
    """Compute the next `num_tokens` tokens of a sequence; the last `num_drafted` are guesses."""

    sequence: Sequence
    num_tokens: int
    num_drafted: int = 0


class Candidate(NamedTuple):
    """A waiting sequence, and what the prefix cache would give it."""

    sequence: Sequence
    num_cached: int  # tokens; at most all but the last
    pinned_pages: int  # evictable pages that admission would pin
    adapter_pages: int = 0  # what its adapter takes, unless one admitted before brings it
    restored_pages: int = 0  # that admission would take to copy back what the second tier holds


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may use. `available_pages` are free or can be evicted."""

    token_budget: int
    available_pages: int
    page_size: int
    max_running: int
    adapter_sizes: Mapping[AdapterId, int] = field(default_factory=dict)  # in pages
    adapter_cluster: int = 0  # distinct adapters that are preferred; 0: any number


@dataclass(frozen=True, slots=True)
class Blocked:
    """The first waiting sequence that was not admitted, and which limit stopped it."""

    sequence: Sequence
    why: str


@dataclass(slots=True)
class Step:
    """What one forward pass computes. Data only: nothing has run yet."""

    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    blocked: Blocked | str | None = None  # a text: of all that wait

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


def next_step(
    running: Iterable[Sequence],
    waiting: Policy,
    look_up: Callable[[Sequence], Candidate],
    limits: Limits,
    cached_tokens: CachedTokens | None = None,
) -> Step:
    """Decide the next step. `running` is in admission order; `cached_tokens` is a cheaper way to
    ask `look_up` for that.

    Progress: a sequence that alone fits the pool is never preempted when it runs alone, and is
    admitted when nothing runs.
    """
    step = Step()
    batch = _Batch.of(running, limits.page_size)
    if batch.is_short(limits.available_pages):
        batch = _Batch.of(_preempt(batch.all, limits, step), limits.page_size)
    step.chunks = [Chunk(sequence, 1) for sequence in batch.decodes]
    pages = limits.available_pages - batch.pages_needed - batch.pages_restored
    budget = max(limits.token_budget - len(batch.decodes), 0)
    # who is begun has all tokens or all pages before others: what they leave, nobody begun wants
    for sequence in sorted(batch.prefills, key=waiting.turn):
        count, pages = _fit(sequence, min(budget, sequence.num_uncomputed), pages, limits)
        budget -= count
        if count:
            step.chunks.append(Chunk(sequence, count))
    if step.preempted:
        step.blocked = "memory is short: those that run go on first"
    else:
        tokens = cached_tokens or (lambda sequence: look_up(sequence).num_cached)
        outlook = _Outlook(batch, look_up, limits)
        admission = _Admission(step, outlook, limits, budget, pages, tokens)
        admission.run(waiting)
        _add_drafted(step, *admission.left, limits.page_size)
    return step


def displaced(
    running: list[Sequence],
    waiting: Policy,
    look_up: Callable[[Sequence], Candidate],
    limits: Limits,
) -> Sequence | None:
    """Who gives up its place before the next step, when there is no place or not a step's worth
    of pages and the policy would rather see somebody who waits for nothing but that. It is to be
    preempted first, as what it leaves in the cache changes what newcomers need."""
    is_full = len(running) >= min(limits.max_running, limits.token_budget)
    is_scarce = limits.available_pages * limits.page_size < limits.token_budget
    if len(running) < 2 or not len(waiting) or not (is_full or is_scarce):
        return None
    outlook: list[_Outlook] = []  # most policies never ask

    def is_ready(sequence: Sequence) -> bool:
        if not outlook:
            outlook.append(_Outlook(_Batch.of(running, limits.page_size), look_up, limits))
        return outlook[0].is_ready(sequence)

    return waiting.victim(running, is_ready)


# -- internals ---------------------------------------------------------------


class _Batch(NamedTuple):
    """Those that run, told apart in one pass: there may be hundreds, in each step."""

    all: list[Sequence]
    decodes: list[Sequence]
    prefills: list[Sequence]
    restoring: list[Sequence]  # nothing of theirs is computed before their pages are back
    pages_needed: int  # by the decodes
    pages_restored: int  # that copies back will take, in this step and later ones

    @classmethod
    def of(cls, running: Iterable[Sequence], page_size: int) -> _Batch:
        together, pages = list(running), 0
        decodes, prefills, restoring = list[Sequence](), list[Sequence](), list[Sequence]()
        for sequence in together:
            computed = sequence.num_computed
            left = len(sequence.tokens) - computed
            if sequence.num_restoring:
                restoring.append(sequence)
            elif left == 1:
                decodes.append(sequence)
                if len(sequence.pages) * page_size <= computed:
                    pages += sequence.pages_for(1, page_size)
            elif left > 1:
                prefills.append(sequence)
        restored = sum(sequence.num_restoring for sequence in restoring)
        return cls(together, decodes, prefills, restoring, pages, restored)

    def is_short(self, available: int) -> bool:
        """Somebody may have to be preempted."""
        return len(self.all) > 1 and (not self.decodes or self.pages_needed > available)


def _preempt(running: list[Sequence], limits: Limits, step: Step) -> list[Sequence]:
    """Drop victims until every decode, or at least one sequence, can go on."""
    available = limits.available_pages
    while len(running) > 1:
        decodes = [s for s in running if s.num_uncomputed == 1 and not s.num_restoring]
        need = sum(s.pages_for(1, limits.page_size) for s in decodes)
        stuck = not decodes and not any(
            s.pages_for(1, limits.page_size) <= available for s in running
        )
        if need <= available and not stuck:
            break
        latest = range(len(running) - 1, -1, -1)
        victim = running.pop(min(latest, key=lambda i: running[i].num_generated))
        available += len(victim.pages) - victim.num_shared_pages
        if all(s.adapter != victim.adapter for s in running):
            available += limits.adapter_sizes.get(victim.adapter, 0)
        step.preempted.append(victim)
    return running


def _fit(sequence: Sequence, count: int, pages: int, limits: Limits) -> tuple[int, int]:
    """Tokens that fit in `pages`, and the pages left."""
    slots = (len(sequence.pages) + pages) * limits.page_size - sequence.num_computed
    count = max(min(count, slots), 0)
    return count, pages - sequence.pages_for(count, limits.page_size)


def _add_drafted(step: Step, budget: int, pages: int, page_size: int) -> None:
    """Lengthen decodes by what is guessed to follow, as far as tokens and pages are left."""
    for number, chunk in enumerate(step.chunks):
        sequence = chunk.sequence
        if not sequence.proposed or sequence.num_uncomputed != 1:
            continue
        own = sequence.pages_for(1, page_size)
        slots = (len(sequence.pages) + own + pages) * page_size - sequence.num_computed - 1
        count = min(len(sequence.proposed), budget, slots)
        if count > 0:
            pages -= sequence.pages_for(1 + count, page_size) - own
            budget -= count
            step.chunks[number] = Chunk(sequence, 1 + count, count)


class _Outlook:
    """For whom would room be enough? Not for those whose prefix is being computed just now, nor
    for those that wait until an adapter has left the batch."""

    def __init__(
        self, batch: _Batch, look_up: Callable[[Sequence], Candidate], limits: Limits
    ) -> None:
        self.look_up, self._size, self.num_running = look_up, limits.page_size, len(batch.all)
        self.clustering = Clustering(limits.adapter_cluster, set())
        begun = (*batch.prefills, *batch.restoring)
        self._fillers = [s for s in begun if not s.is_private]
        if limits.adapter_cluster:
            for sequence in batch.all:
                self.clustering.take(sequence.adapter)

    def is_ready(self, sequence: Sequence) -> bool:
        is_deferred = self.clustering.defers(sequence.adapter, sequence.passed_over)
        return not is_deferred and not self.waits_for_sibling(sequence)

    def waits_for_sibling(self, sequence: Sequence) -> bool:
        if not self._fillers:
            return False
        cached = self.look_up(sequence).num_cached
        return any(_fills(f, sequence, cached, self._size) for f in self._fillers)

    def admit(self, sequence: Sequence) -> None:
        self.num_running += 1
        self.clustering.take(sequence.adapter)
        if not sequence.is_private:
            self._fillers.append(sequence)


class _Admission:
    """Takes in waiting sequences while tokens, places and pages last."""

    def __init__(
        self,
        step: Step,
        outlook: _Outlook,
        limits: Limits,
        budget: int,
        pages: int,
        cached_tokens: CachedTokens,
    ) -> None:
        self._step, self._outlook, self._size = step, outlook, limits.page_size
        self._budget, self._pages, self._cached_tokens = budget, pages, cached_tokens
        # every running sequence decodes in every step, so there are never more than the budget
        self._most = min(limits.max_running, limits.token_budget)
        self._brought: set[AdapterId] = set()  # adapters whose pages an earlier newcomer pays for

    def run(self, waiting: Policy) -> None:
        if not len(waiting) or self._is_full():
            return  # before the queue is looked at: putting it in order is not free
        num_skipped = 0
        for sequence in self._candidates(waiting):
            if self._is_full():
                return
            why = self._refuse(sequence)
            if why == SIBLING and not waiting.is_strict and num_skipped < MAX_SKIPPED:
                num_skipped += 1
                continue
            if why:
                self._step.blocked = Blocked(sequence, why)
                return

    def _candidates(self, waiting: Policy) -> Iterator[Sequence]:
        def turns() -> Iterator[Sequence]:
            return waiting.order(self._cached_tokens, self._step.admitted)

        clustering = self._outlook.clustering
        if not clustering.most:
            return turns()
        return clustering.order(turns, lambda s: s.adapter, lambda s: s.passed_over)

    @property
    def left(self) -> tuple[int, int]:
        """Tokens and pages that nobody took."""
        return self._budget, max(self._pages, 0)

    def _is_full(self) -> bool:
        num_running = self._outlook.num_running
        if num_running >= self._most:
            self._step.blocked = f"{num_running} run, and no more may (engine.max_running)"
        elif self._budget <= 0:
            self._step.blocked = "the step is full (engine.token_budget)"
        return self._step.blocked is not None

    def _refuse(self, sequence: Sequence) -> str | None:
        """Admit it, or say why not."""
        if self._outlook.waits_for_sibling(sequence):
            return SIBLING
        candidate, size = self._outlook.look_up(sequence), self._size
        uncached = sequence.num_tokens - candidate.num_cached
        output = max(sequence.max_new_tokens - sequence.num_generated, 0)
        reserve = -(-int(uncached + RESERVE_FRAC * output) // size) + 1
        left = self._pages - candidate.pinned_pages - candidate.restored_pages
        left -= candidate.adapter_pages if sequence.adapter not in self._brought else 0
        if left <= 0 or (reserve > left and self._outlook.num_running):
            return f"it needs {reserve} pages of memory, and {max(left, 0)} can be had"
        count = min(self._budget, uncached, left * size)
        self._step.admitted.append(sequence)
        self._step.chunks.append(Chunk(sequence, count))
        self._brought.add(sequence.adapter)
        self._budget -= count
        self._pages = left - (-(-uncached // size))  # the whole prompt is spoken for
        self._outlook.admit(sequence)
        return None


def _fills(filler: Sequence, sequence: Sequence, start: int, page_size: int) -> bool:
    """Whether `filler` will publish the first page that `sequence` misses, from `start` on."""
    start -= start % page_size
    end = start + page_size
    return (
        not sequence.is_private
        and sequence.reads_cache
        and filler.namespace == sequence.namespace
        and end < sequence.num_tokens  # the last token is never matched
        and end <= sequence.most_cached
        and end <= filler.num_tokens
        and filler.tokens[start:end] == sequence.tokens[start:end]  # most differ here already
        and filler.tokens[:start] == sequence.tokens[:start]
    )
