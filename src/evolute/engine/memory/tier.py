"""Which evicted pages can come back by a copy? The second tier: slots behind the pool.

    match(namespace, digests) -> count            how many of these pages, from the first on
    spill(namespace, digests, pages)              copy out pages that leave the pool
    restore(namespace, digests, pages) -> count   copy back; so many of `pages` now hold them
    drop(is_stale), clear()                       forget: weights have changed; all is flushed
    fault() -> str, check()                       are the sums right?
    page_digests(tokens, page_size)               names of pages: each of all tokens up to its end

A page's name is its namespace and the digest of its whole prefix, so a slot needs no place in a
tree: pages above it may be in the pool, in the tier, or nowhere; then nobody asks for it, and it
goes with the oldest. What a slot holds never changes while it has a name, so a page that is in
the pool and in the tier is in both the same, and leaves the pool without a copy.
"""

from __future__ import annotations

import logging
import sys
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

from evolute.engine.memory.costs import Costs
from evolute.engine.memory.pages import PageId

logger = logging.getLogger(__name__)
Slot = int
Digest = bytes
Name = bytes  # of a page, for its store: namespace and digest
TOKEN_BYTES = 4


class SlotStore(Protocol):
    """Copies pages to slots and back; a slot is as large as a page."""

    num_slots: int
    why_broken: str  # not empty: it can be used no more

    def can_write(self) -> bool:
        """False: writing now would make the step wait."""
        ...

    def write(self, page: PageId, slot: Slot, name: Name) -> None:
        """The page may be written to when this returns."""
        ...

    def read(
        self, slots: Sequence[Slot], pages: Sequence[PageId], names: Sequence[Name]
    ) -> tuple[int, float]:
        """How many pages hold what was written under their names, and the seconds it took. It
        stops at the first slot that does not give that back."""
        ...

    def close(self) -> None: ...


class NoSlots:
    """The store of an engine without a second tier."""

    num_slots = 0
    why_broken = ""

    def can_write(self) -> bool:
        return False

    def write(self, page: PageId, slot: Slot, name: Name) -> None:
        raise AssertionError(f"page {page} cannot be written: can_write is False")

    def read(
        self, slots: Sequence[Slot], pages: Sequence[PageId], names: Sequence[Name]
    ) -> tuple[int, float]:
        return 0, 0.0

    def close(self) -> None: ...


@dataclass(slots=True)
class TierCounts:
    """Since the start; pages, unless it says otherwise."""

    hits: int = 0  # admissions that got pages back
    declined: int = 0  # admissions that computed what the tier held, as that was cheaper
    restored_pages: int = 0
    restored_tokens: int = 0
    written_pages: int = 0  # copied out
    clean_pages: int = 0  # left the pool while the tier had them already
    dropped_pages: int = 0  # left the pool without a copy: the writer was behind, or no slot
    evicted_pages: int = 0  # left the tier for newer ones
    faults: int = 0  # slots that did not give back what was written; and the end of a store
    restore_s: float = 0.0  # that steps waited for copies


class Tier:
    """Invariants, asserted by `check`: a slot is free or has one name; nothing has a name once its
    namespace was dropped; a store that is broken holds nothing."""

    def __init__(
        self,
        store: SlotStore | None = None,
        costs: Costs | None = None,
        step_pages: int = sys.maxsize,
    ) -> None:
        self.step_pages = step_pages  # that a step may copy back
        self.costs, self.counts = costs or Costs(), TierCounts()
        self.changes = 0  # grows whenever a `match` made before may no longer hold
        self._store: SlotStore = store or NoSlots()
        self._slots: OrderedDict[tuple[Hashable, Digest], Slot] = OrderedDict()  # oldest first
        self._names: Counter[Hashable] = Counter()  # pages of each namespace
        self.num_slots = self._store.num_slots
        self._free = list(range(self.num_slots - 1, -1, -1))

    @property
    def num_pages(self) -> int:
        return len(self._slots)

    def match(self, namespace: Hashable, digests: Sequence[Digest]) -> int:
        """Length of the run of pages, from the first of `digests` on, that slots hold."""
        self._notice()
        if not self._slots or not self._names.get(namespace):
            return 0
        for count, digest in enumerate(digests):
            if (namespace, digest) not in self._slots:
                return count
        return len(digests)

    def touch(self, namespace: Hashable, digests: Sequence[Digest]) -> None:
        """They are used now. Those near the root are the newest, so the far ones go first."""
        for digest in reversed(digests):
            if (namespace, digest) in self._slots:
                self._slots.move_to_end((namespace, digest))

    def spill(
        self, namespace: Hashable, digests: Sequence[Digest], pages: Sequence[PageId]
    ) -> None:
        """Copy out `pages`, neighbours on one path, before somebody else writes to them."""
        self._notice()
        if not self.num_slots:
            return
        self.touch(namespace, digests)  # none of them makes room for another
        for number, (digest, page) in enumerate(zip(digests, pages)):
            if (namespace, digest) in self._slots:
                self.counts.clean_pages += 1
            elif number < self.num_slots and self._store.can_write():
                self._put((namespace, digest), page)
            else:  # those behind it could not be used without it
                self.counts.dropped_pages += len(pages) - number
                break
        self.touch(namespace, digests)

    def restore(
        self, namespace: Hashable, digests: Sequence[Digest], pages: Sequence[PageId]
    ) -> int:
        """Fill `pages`, which the caller took from the pool. Returns how many hold what `digests`
        name; the others hold anything."""
        self._notice()
        slots: list[Slot] = []
        for digest in digests:
            slot = self._slots.get((namespace, digest))
            if slot is None:  # gone since it was matched
                break
            slots.append(slot)
        names = [_name(namespace, digest) for digest in digests[: len(slots)]]
        done, seconds = self._store.read(slots, pages[: len(slots)], names)
        if done < len(slots):
            self.counts.faults += 1
            logger.warning("a slot of the second tier is not what was written; it is dropped")
            self._forget((namespace, digests[done]))
        self.costs.copied(done, seconds)
        self.counts.restore_s += seconds
        self.counts.restored_pages += done
        self.counts.hits += done > 0
        return done

    def drop(self, is_stale: Callable[[Any], bool]) -> None:
        """Forget namespaces whose pages must never come back."""
        stale = {name for name in self._names if is_stale(name)}
        if stale:
            for key in [key for key in self._slots if key[0] in stale]:
                self._forget(key)

    def clear(self) -> None:
        """Whatever was believed before: all slots are free."""
        self._slots.clear()
        self._names.clear()
        self._free = list(range(self.num_slots - 1, -1, -1))
        self.changes += 1

    def fault(self) -> str:
        """What is wrong with the sums; empty: nothing. Cheap."""
        used, free, named = len(self._slots), len(self._free), self._names.total()
        if used + free != self.num_slots or named != used:
            return f"{used} slots of the tier are used, {free} free, but it has {self.num_slots}"
        return ""

    def check(self) -> None:
        assert not self.fault(), self.fault()
        held = [*self._slots.values(), *self._free]
        assert sorted(held) == list(range(self.num_slots)), "a slot is held twice or was lost"
        assert self._names == Counter(name for name, _ in self._slots), "names are miscounted"

    def close(self) -> None:
        """The store's files and threads. Idempotent."""
        self.num_slots = 0
        self.clear()
        self._store.close()

    # -- internals -----------------------------------------------------------

    def _put(self, key: tuple[Hashable, Digest], page: PageId) -> None:
        if not self._free:
            self._forget(next(iter(self._slots)))
            self.counts.evicted_pages += 1
        slot = self._free.pop()
        self._store.write(page, slot, _name(*key))
        self._slots[key] = slot
        self._names[key[0]] += 1
        self.counts.written_pages += 1
        self.changes += 1

    def _forget(self, key: tuple[Hashable, Digest]) -> None:
        self._free.append(self._slots.pop(key))
        self._names[key[0]] -= 1
        if not self._names[key[0]]:
            del self._names[key[0]]
        self.changes += 1

    def _notice(self) -> None:
        """A store that broke is used no more; what it held is computed anew."""
        if self._store.why_broken and self.num_slots:
            logger.error("the second tier is switched off: %s", self._store.why_broken)
            self.counts.faults += 1
            self.num_slots = 0
            self.clear()


def _name(namespace: Hashable, digest: Digest) -> Name:
    return repr(namespace).encode() + digest


def page_digests(tokens: Sequence[int], page_size: int) -> list[Digest]:
    """For each whole page of `tokens` the digest of everything up to its end."""
    digest, found, size = blake2b(digest_size=32), list[Digest](), page_size * TOKEN_BYTES
    packed = array("i", tokens[: len(tokens) // page_size * page_size]).tobytes()
    assert not packed or array("i").itemsize == TOKEN_BYTES
    for start in range(0, len(packed), size):
        digest.update(packed[start : start + size])
        found.append(digest.digest())
    return found
