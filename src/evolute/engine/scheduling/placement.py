"""Which pages does each sequence hold? Pool, prefix cache, tier, adapters, running sequences.

    look_up(sequence) -> Candidate    what cache and tier would give it
    cached_tokens() -> CachedTokens   the same, only the tokens, remembered while nothing changes
    restore_more()                    at the start of a step: copies back that were begun go on
    admit(sequence)                   pin what is cached, copy back what pays; it runs from now on
    reserve(chunk) -> bool            pages for what a chunk writes, evicting if needed
    publish(sequence)                 whole computed pages become the cache's
    release(sequence)                 it runs no more; its pages stay cached or become free
    prefetch(sequences)               copy adapters of the next ones while a step computes
    resize_adapter(adapter, pages)    a new version of one that may be in use
    fault() -> str, rebuild()         while nothing runs: are the sums right? Put them right
    reset()                           begin anew, when that cannot be asked any more

Pages of a running sequence, from position 0:

    |<-- num_shared_pages: the cache's, pinned -->|<-- own: nobody else's -->|
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from evolute.engine.memory import (
    AdapterId,
    Loader,
    Match,
    PageId,
    PagePool,
    RadixCache,
    RadixNode,
    Residency,
    Tier,
    page_digests,
)
from evolute.engine.scheduling.cached import Remembered
from evolute.engine.scheduling.policies.policy import CachedTokens
from evolute.engine.scheduling.sequence import Namespace, Sequence
from evolute.engine.scheduling.step import Candidate, Chunk


class Placement:
    """Invariant, asserted by `check`: a page is free, cached, own of one running sequence, or of
    one resident adapter; and the adapter of a running sequence is resident."""

    prefetch_share = 4  # adapters expected soon take at most this part of the pool

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        loader: Loader | None = None,
        tier: Tier | None = None,
    ) -> None:
        self.page_size, self.tier = page_size, tier or Tier()
        self.pool, self.cache = PagePool(num_pages), RadixCache(page_size)
        self.adapters = Residency(loader)
        self.running: list[Sequence] = []
        self.num_evicted = 0
        self._pinned: dict[Sequence, RadixNode] = {}
        # of waiting ones, with the pages that the tier would add, while both stay as they are
        self._matches: dict[Sequence, tuple[Match, int]] = {}
        self._matches_at = (0, 0)
        self._restorable = self.tier.step_pages  # that may be copied back in this step
        self._cached, self._cached_at = Remembered(self.look_up), (0, 0)

    @property
    def num_available(self) -> int:
        """Pages that are free or can be evicted."""
        return self.pool.num_free + self.cache.num_evictable + self.adapters.num_idle_pages

    def look_up(self, sequence: Sequence) -> Candidate:
        found, cost = self._match(sequence), self.adapters.cost(sequence.adapter)
        if found is None:
            return Candidate(sequence, 0, 0, cost)
        match, in_tier = found
        if in_tier and not self._prefers_copy(in_tier):
            in_tier = 0
        cached = match.num_tokens + in_tier * self.page_size
        return Candidate(sequence, cached, len(match.pages), cost, in_tier)

    def cached_tokens(self) -> CachedTokens:
        """To be asked for anew in each step."""
        now = (self.cache.changes, self.tier.changes)
        if self._cached_at != now or self.tier.num_pages:  # whether a copy pays changes any time
            self._cached.clear()
            self._cached_at = now
        return self._cached.__getitem__

    def restore_more(self) -> None:
        """A step copies back `tier.step_pages` at most, as those that decode wait for it. Who has
        more to come (`Sequence.num_restoring`) runs, but nothing of it is computed till then."""
        self._restorable = self.tier.step_pages
        for sequence in self.running:
            if sequence.num_restoring:
                self._restore(sequence)

    def admit(self, sequence: Sequence) -> int:
        """Start a waiting sequence. Returns the tokens it need not compute, as far as copies back
        give what they should. What its adapter's loading raises is raised, and then it holds
        nothing."""
        match, in_tier = self._match(sequence) or (None, 0)
        self._matches.pop(sequence, None)
        self._cached.pop(sequence, None)
        if match is not None and match.pages:
            self._pinned[sequence] = self.cache.pin(match)
            sequence.pages = list(match.pages)
            sequence.num_shared_pages = len(match.pages)
            sequence.num_computed = match.num_tokens
        try:  # after the pin: room is not made of what it matched
            self._hold_adapter(sequence.adapter)
        except Exception:
            self._let_go(sequence)
            raise
        self.running.append(sequence)
        if in_tier and self._prefers_copy(in_tier):
            sequence.num_restoring = in_tier
            self._restore(sequence)
        elif in_tier:
            self.tier.costs.declined()
            self.tier.counts.declined += 1
        cached = sequence.num_computed + sequence.num_restoring * self.page_size
        if sequence.num_cached is None:
            sequence.num_cached = cached
        return cached

    def reserve(self, chunk: Chunk) -> bool:
        """Give the sequence the pages that a chunk writes to; False if there are too few."""
        most = chunk.sequence.num_uncomputed + chunk.num_drafted  # more may be cached than planned
        count = chunk.sequence.pages_for(min(chunk.num_tokens, most), self.page_size)
        if not count:
            return True
        pages = self._allocate(count)
        chunk.sequence.pages += pages or ()
        return pages is not None

    def publish(self, sequence: Sequence) -> None:
        """Hand whole computed pages to the cache and hold them there in place of our own."""
        before = self._pinned.get(sequence)
        if sequence.is_private or (before is not None and before.is_dropped):
            return  # what it holds of a flushed cache must not be published a second time
        whole = sequence.num_computed // self.page_size
        tokens = sequence.tokens[: whole * self.page_size]
        own = set(sequence.pages[sequence.num_shared_pages :])
        duplicates = self.cache.insert(sequence.namespace, tokens, sequence.pages[:whole])
        match = self.cache.match(sequence.namespace, tokens)
        self._pinned.pop(sequence, None)
        if match.pages:
            self._pinned[sequence] = self.cache.pin(match)
        if before is not None:
            self.pool.free(self.cache.unpin(before))
        self.pool.free(page for page in duplicates if page in own)
        sequence.pages = [*match.pages, *sequence.pages[whole:]]
        sequence.num_shared_pages = len(match.pages)

    def release(self, sequence: Sequence) -> None:
        """Take a sequence out of the running ones; it would have to compute everything anew."""
        self.running.remove(sequence)
        self.publish(sequence)
        self._let_go(sequence)
        self.adapters.release(sequence.adapter)

    def prefetch(self, sequences: Iterable[Sequence]) -> None:
        """Bring the adapters of those that will be admitted next, as far as that takes no page
        from a running sequence or another prefetch; what was expected before may go again."""
        room = self.pool.num_pages // self.prefetch_share
        wanted: dict[AdapterId, None] = {}
        for sequence in sequences:
            size = self.adapters.size(sequence.adapter)
            if size and sequence.adapter not in wanted and size <= room:
                wanted[sequence.adapter] = None
                room -= size
        self.adapters.expect(wanted)
        for adapter in wanted:
            kept = sum(self.adapters.cost(a) for a in wanted if self.adapters.is_resident(a))
            size = self.adapters.size(adapter)
            if self.adapters.is_resident(adapter) or size > self.num_available - kept:
                continue
            pages = self._allocate(size, spare_expected=True)
            if pages is not None:
                self.adapters.put(adapter, pages, in_background=True)

    def resize_adapter(self, adapter: AdapterId, num_pages: int) -> bool:
        """Make room for a new version and load it. False, and nothing changed, if there is none."""
        if not self.adapters.users(adapter):
            self.remove_adapter(adapter)
            self.adapters.set_size(adapter, num_pages)
            return True
        extra = self._allocate(max(num_pages - self.adapters.size(adapter), 0))
        if extra is None:
            return False
        self.pool.free(self.adapters.resize(adapter, num_pages, extra))
        return True

    def remove_adapter(self, adapter: AdapterId) -> None:
        """Nobody may use it."""
        self.pool.free(self.adapters.remove(adapter))

    def drop(self, is_stale: Callable[[Namespace], bool]) -> None:
        """Forget cached pages of namespaces that must never match again."""
        self._matches.clear()
        self._cached.clear()
        self.tier.drop(is_stale)
        self.pool.free(self.cache.drop(is_stale))

    def check(self) -> None:
        self.cache.check()
        self.adapters.check()
        self.tier.check()
        own = [page for s in self.running for page in s.pages[s.num_shared_pages :]]
        held = self.cache.pages() + own + self.adapters.pages()
        assert len(held) + self.pool.num_free == self.pool.num_pages, "pages were lost"
        assert len(set(held)) == len(held), "a page has two owners"
        pinned = set(self._pinned)
        assert pinned <= set(self.running), "a sequence that does not run holds a pin"
        users = Counter(s.adapter for s in self.running)
        for adapter in self.adapters.sizes:
            count = self.adapters.users(adapter)
            assert count == users[adapter], f"adapter {adapter}: {count} users"

    def fault(self) -> str:
        """What is wrong with the sums while nothing runs; empty: nothing. Cheap."""
        free, cached, adapters = self.pool.num_free, self.cache.num_pages, self.adapters.num_pages
        if free + cached + adapters != self.pool.num_pages:
            return (
                f"{free} pages are free, {cached} cached and {adapters} adapters', "
                f"but the pool has {self.pool.num_pages}"
            )
        if self.cache.num_pinned or self._pinned:
            return f"{self.cache.num_pinned} cached pages are pinned, and nothing runs"
        if self.adapters.num_idle_pages != adapters:
            return f"{self.adapters.num_idle_pages} of {adapters} adapters' pages are idle"
        return self.tier.fault()

    def whole_fault(self) -> str:
        """The same by a walk over every page."""
        try:
            self.check()
        except Exception as error:  # what is broken may break in any way
            return f"{type(error).__name__}: {error}"
        free = set(self.pool.free_pages())
        held = [*self.cache.pages(), *self.adapters.pages()]
        if not self.pool.is_sound() or not free.isdisjoint(held):
            return "a page is free and not free"
        return self.fault()

    def rebuild(self) -> str:
        """Make the pages' sums right while nothing runs; returns what that took.

        Lost pages become free. When a page has two owners nobody knows whose its bytes are:
        then cache, tier and adapters in pages go, which costs computing and copying them anew.
        """
        self._pinned.clear()
        self._matches.clear()
        self._cached.clear()
        held = self._sound_pages()
        if held is None:
            self.cache = RadixCache(self.page_size)
            self.adapters.clear()
        if held is None or self._is_tier_broken():
            self.tier.clear()
        self._matches_at = (self.cache.changes, self.tier.changes)
        self.pool.rebuild(held or ())
        return "the free list was built anew" if held is not None else "the cache was dropped"

    def reset(self) -> None:
        """Nothing runs and nothing is cached, whatever was believed before."""
        self.running.clear()
        self._pinned.clear()
        self._matches.clear()
        self._cached.clear()
        self.cache = RadixCache(self.page_size)
        self.tier.clear()
        self._matches_at = (self.cache.changes, self.tier.changes)
        self.adapters.clear()
        self.pool.rebuild(())

    # -- internals -----------------------------------------------------------

    def _sound_pages(self) -> list[PageId] | None:
        """Pages of the cache and of adapters; None when these are not to be trusted."""
        try:
            self.cache.check()
            self.adapters.check()
            held = [*self.cache.pages(), *self.adapters.pages()]
        except Exception:  # as above
            return None
        in_use = self.cache.num_pinned or self.adapters.num_idle_pages != self.adapters.num_pages
        known = set(range(self.pool.num_pages)).difference(self.pool.free_pages())
        return None if in_use or len(set(held)) < len(held) or not known.issuperset(held) else held

    def _is_tier_broken(self) -> bool:
        try:
            self.tier.check()
        except Exception:  # as above
            return True
        return False

    def _let_go(self, sequence: Sequence) -> None:
        """Of its pages and of its place in the cache."""
        self.pool.free(sequence.pages[sequence.num_shared_pages :])
        held = self._pinned.pop(sequence, None)
        if held is not None:
            self.pool.free(self.cache.unpin(held))
        sequence.pages, sequence.num_shared_pages, sequence.num_computed = [], 0, 0
        sequence.proposed, sequence.num_restoring = [], 0

    def _hold_adapter(self, adapter: AdapterId) -> None:
        try:
            if self.adapters.hold(adapter):
                return
            pages = self._allocate(self.adapters.size(adapter))
            assert pages is not None, "a sequence was admitted without room for its adapter"
            self.adapters.put(adapter, pages)
            self.adapters.hold(adapter)
        except Exception:  # its pages do not hold what they should
            self.pool.free(self.adapters.give_up(adapter))
            raise

    def _allocate(self, count: int, *, spare_expected: bool = False) -> list[PageId] | None:
        """`count` pages. Idle adapters make room first: one copy brings a page back, where a page
        of keys takes a forward pass of its tokens. Those expected soon go last."""
        self._make_room(count, self.adapters.evict)
        self._make_room(count, self._evict_cached)
        if not spare_expected:
            self._make_room(count, lambda short: self.adapters.evict(short, expected=True))
        return self.pool.allocate(count)

    def _make_room(self, count: int, evict: Callable[[int], list[PageId]]) -> None:
        if self.pool.num_free < count:
            self.pool.free(evict(count - self.pool.num_free))

    def _evict_cached(self, count: int) -> list[PageId]:
        evicted = self.cache.evict(count, self._spill if self.tier.num_slots else None)
        self.num_evicted += len(evicted)
        return evicted

    def _spill(self, namespace: Any, tokens: tuple[int, ...], pages: tuple[PageId, ...]) -> None:
        self.tier.spill(namespace, page_digests(tokens, self.page_size)[-len(pages) :], pages)

    def _restore(self, sequence: Sequence) -> None:
        """Copy back the pages that follow what it has, as many as this step may. They are the
        cache's at once. What does not come back is computed."""
        count, first = min(sequence.num_restoring, self._restorable), len(sequence.pages)
        if not count:
            return
        digests = sequence.digests[first : first + count]
        self.tier.touch(sequence.namespace, digests)  # room is not made of what is wanted
        pages = self._allocate(count) or []
        self._restorable -= len(pages)
        done = self.tier.restore(sequence.namespace, digests, pages) if pages else 0
        self.pool.free(pages[done:])
        sequence.pages += pages[:done]
        sequence.num_computed += done * self.page_size
        self.tier.counts.restored_tokens += done * self.page_size
        sequence.num_restoring -= done
        if done < count:
            sequence.num_restoring = 0
            if sequence.num_cached is not None and not sequence.num_preemptions:
                sequence.num_cached = sequence.num_computed
        if done:
            self.publish(sequence)

    def _prefers_copy(self, pages: int) -> bool:
        return self.tier.costs.prefers_copy(pages, pages * self.page_size)

    def _match(self, sequence: Sequence) -> tuple[Match, int] | None:
        """The sequence's cached prefix, and how many pages of the tier follow it; remembered until
        either changes. None: it reads none."""
        if sequence.is_private or not sequence.reads_cache:
            return None
        now = (self.cache.changes, self.tier.changes)
        if self._matches_at != now:
            self._matches.clear()
            self._matches_at = now
        found = self._matches.get(sequence)
        if found is None:
            # the last token is never matched: its logits are needed
            most = min(sequence.num_tokens - 1, sequence.most_cached)
            match = self.cache.match(sequence.namespace, sequence.tokens[:most])
            found = match, self._in_tier(sequence, len(match.pages), most // self.page_size)
            self._matches[sequence] = found
        return found

    def _in_tier(self, sequence: Sequence, first: int, end: int) -> int:
        """How many pages from `first` to `end` the tier holds in a row."""
        if not self.tier.num_pages or first >= end:
            return 0
        if len(sequence.digests) < end:  # its tokens only ever grow
            sequence.digests = page_digests(sequence.tokens, self.page_size)
        return self.tier.match(sequence.namespace, sequence.digests[first:end])
