"""One scheduling step: which tokens does the model compute next? Pure; nothing is touched.

Decodes go first, one token each, so that running requests never stall behind a long prompt.
When pages are short, victims are preempted and start over later: those with the fewest
generated tokens, then those admitted last. What is left of the token budget goes to prompts
already begun, then to newly admitted ones, in the queue's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from evolute.engine.scheduling.sequence import Sequence

RESERVE_FRAC = 0.3  # of the output a newcomer may still make is kept free at admission
MAX_SKIPPED = 256  # waiting sequences that a step looks past before it gives up


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the next `num_tokens` tokens of a sequence."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting sequence, and what the prefix cache would give it."""

    sequence: Sequence
    num_cached: int  # tokens; at most all but the last
    pinned_pages: int  # evictable pages that admission would pin


@dataclass(frozen=True, slots=True)
class Limits:
    """What one step may use. `available_pages` are free or can be evicted."""

    token_budget: int
    available_pages: int
    page_size: int
    max_running: int


@dataclass(slots=True)
class Step:
    """What one forward pass computes. Data only: nothing has run yet."""

    chunks: list[Chunk] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


def next_step(
    running: Iterable[Sequence],
    waiting: Iterable[Sequence],
    look_up: Callable[[Sequence], Candidate],
    limits: Limits,
) -> Step:
    """Decide the next step. `running` is in admission order, `waiting` in the queue's.

    Progress: a sequence that alone fits the pool is never preempted when it runs alone, and is
    admitted when nothing runs.
    """
    step = Step()
    keep = _preempt(list(running), limits, step)
    decodes = [s for s in keep if s.num_uncomputed == 1]
    pages = limits.available_pages
    for sequence in decodes:
        pages -= sequence.pages_for(1, limits.page_size)
        step.chunks.append(Chunk(sequence, 1))
    budget = max(limits.token_budget - len(decodes), 0)
    prefills = [s for s in keep if s.num_uncomputed > 1]
    for sequence in prefills:
        count, pages = _fit(sequence, min(budget, sequence.num_uncomputed), pages, limits)
        budget -= count
        if count:
            step.chunks.append(Chunk(sequence, count))
    rest = sum(s.pages_for(s.num_uncomputed, limits.page_size) for s in prefills)
    _admit(keep, waiting, look_up, limits, step, budget, pages - rest)
    return step


# -- internals ---------------------------------------------------------------


def _preempt(running: list[Sequence], limits: Limits, step: Step) -> list[Sequence]:
    """Drop victims until every decode, or at least one sequence, can go on."""
    available = limits.available_pages
    while len(running) > 1:
        decodes = [s for s in running if s.num_uncomputed == 1]
        need = sum(s.pages_for(1, limits.page_size) for s in decodes)
        stuck = not decodes and not any(
            s.pages_for(1, limits.page_size) <= available for s in running
        )
        if need <= available and not stuck:
            break
        latest = range(len(running) - 1, -1, -1)
        victim = running.pop(min(latest, key=lambda i: running[i].num_generated))
        available += len(victim.pages) - victim.num_shared_pages
        step.preempted.append(victim)
    return running


def _fit(sequence: Sequence, count: int, pages: int, limits: Limits) -> tuple[int, int]:
    """Tokens that fit in `pages`, and the pages left."""
    slots = (len(sequence.pages) + pages) * limits.page_size - sequence.num_computed
    count = max(min(count, slots), 0)
    return count, pages - sequence.pages_for(count, limits.page_size)


def _admit(
    running: list[Sequence],
    waiting: Iterable[Sequence],
    look_up: Callable[[Sequence], Candidate],
    limits: Limits,
    step: Step,
    budget: int,
    pages: int,
) -> None:
    if step.preempted:
        return  # memory is short: let those who run come to an end first
    size, num_running, num_skipped = limits.page_size, len(running), 0
    # every running sequence decodes in every step, so there are never more than the budget
    most = min(limits.max_running, limits.token_budget)
    fillers = [s for s in running if s.num_uncomputed > 1 and not s.is_private]
    if budget <= 0 or num_running >= most:
        return  # before `waiting` is looked at: putting it in order is not free
    for sequence in waiting:
        candidate = look_up(sequence)
        if any(_fills(f, sequence, candidate.num_cached, size) for f in fillers):
            num_skipped += 1  # a sibling computes its next page now: soon it is in the cache
            if num_skipped == MAX_SKIPPED:
                return
            continue
        uncached = sequence.num_tokens - candidate.num_cached
        output = max(sequence.max_new_tokens - sequence.num_generated, 0)
        reserve = -(-int(uncached + RESERVE_FRAC * output) // size) + 1
        left = pages - candidate.pinned_pages
        alone = num_running == 0
        if left <= 0 or (reserve > left and not alone):
            return
        count = min(budget, uncached, left * size)
        step.admitted.append(sequence)
        step.chunks.append(Chunk(sequence, count))
        budget -= count
        pages = left - (-(-uncached // size))  # the whole prompt is spoken for, chunk by chunk
        num_running += 1
        if not sequence.is_private:
            fillers.append(sequence)
        if budget <= 0 or num_running >= most:
            return


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
