"""Which pages does each sequence hold? Pool, prefix cache and running sequences in one place.

    look_up(sequence) -> Candidate    what the cache would give it
    admit(sequence)                   pin what is cached; it runs from now on
    reserve(chunk) -> bool            pages for what a chunk writes, evicting if needed
    publish(sequence)                 whole computed pages become the cache's
    release(sequence)                 it runs no more; its pages stay cached or become free

Pages of a running sequence, from position 0:

    |<-- num_shared_pages: the cache's, pinned -->|<-- own: nobody else's -->|
"""

from __future__ import annotations

from collections.abc import Callable

from evolute.engine.memory import Match, PagePool, RadixCache, RadixNode
from evolute.engine.scheduling.sequence import Namespace, Sequence
from evolute.engine.scheduling.step import Candidate, Chunk


class Placement:
    """Invariant, asserted by `check`: a page is free, cached, or own of one running sequence."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.pool, self.cache = PagePool(num_pages), RadixCache(page_size)
        self.running: list[Sequence] = []
        self.num_evicted = 0
        self._pinned: dict[Sequence, RadixNode] = {}
        self._matches: dict[Sequence, Match] = {}  # of waiting ones, while the cache stays as it is
        self._matches_at = 0

    @property
    def num_available(self) -> int:
        """Pages that are free or can be evicted."""
        return self.pool.num_free + self.cache.num_evictable

    def look_up(self, sequence: Sequence) -> Candidate:
        match = self._match(sequence)
        if match is None:
            return Candidate(sequence, 0, 0)
        return Candidate(sequence, match.num_tokens, len(match.pages))

    def admit(self, sequence: Sequence) -> int:
        """Start a waiting sequence. Returns the tokens it need not compute."""
        match = self._match(sequence)
        self._matches.pop(sequence, None)
        self.running.append(sequence)
        cached = match.num_tokens if match else 0
        if match is not None and match.pages:
            self._pinned[sequence] = self.cache.pin(match)
            sequence.pages = list(match.pages)
            sequence.num_shared_pages = len(match.pages)
            sequence.num_computed = cached
        if sequence.num_cached is None:
            sequence.num_cached = cached
        return cached

    def reserve(self, chunk: Chunk) -> bool:
        """Give the sequence the pages that a chunk writes to; False if there are too few."""
        count = chunk.sequence.pages_for(chunk.num_tokens, self.page_size)
        if not count:
            return True
        if self.pool.num_free < count:
            evicted = self.cache.evict(count - self.pool.num_free)
            self.num_evicted += len(evicted)
            self.pool.free(evicted)
        pages = self.pool.allocate(count)
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
        self.pool.free(sequence.pages[sequence.num_shared_pages :])
        held = self._pinned.pop(sequence, None)
        if held is not None:
            self.pool.free(self.cache.unpin(held))
        sequence.pages, sequence.num_shared_pages, sequence.num_computed = [], 0, 0

    def drop(self, is_stale: Callable[[Namespace], bool]) -> None:
        """Forget cached pages of namespaces that must never match again."""
        self._matches.clear()
        self.pool.free(self.cache.drop(is_stale))

    def check(self) -> None:
        self.cache.check()
        own = [page for s in self.running for page in s.pages[s.num_shared_pages :]]
        held = self.cache.pages() + own
        assert len(held) + self.pool.num_free == self.pool.num_pages, "pages were lost"
        assert len(set(held)) == len(held), "a page has two owners"
        pinned = set(self._pinned)
        assert pinned <= set(self.running), "a sequence that does not run holds a pin"

    def _match(self, sequence: Sequence) -> Match | None:
        """The sequence's cached prefix, remembered until the cache changes; None: it reads none."""
        if sequence.is_private or not sequence.reads_cache:
            return None
        if self._matches_at != self.cache.changes:
            self._matches.clear()
            self._matches_at = self.cache.changes
        match = self._matches.get(sequence)
        if match is None:
            # the last token is never matched: its logits are needed
            most = min(sequence.num_tokens - 1, sequence.most_cached)
            match = self.cache.match(sequence.namespace, sequence.tokens[:most])
            self._matches[sequence] = match
        return match
