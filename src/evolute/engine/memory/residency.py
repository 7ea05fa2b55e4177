"""Which adapters lie in pages, who uses them, and who goes when pages are needed?

    set_size(adapter, pages)        known from now on; 0: it needs no pages
    cost(adapter) -> pages          what holding it would take from the pages that are available
    hold(adapter) -> bool           one more sequence uses it; False: it is not here, `put` it first
    put(adapter, pages)             copy it into pages that were taken from the pool
    release(adapter)                one sequence less; without users it is idle
    expect(adapters)                of the next admissions; idle ones that are not, go first
    evict(count) -> pages           idle ones, least recently used first
    resize(adapter, pages) -> pages replace one that may be in use; what is left over
    remove(adapter) -> pages        forget one that nobody uses
    clear()                         repair: none is resident

Adapters of any size share the pool with keys and values (S-LoRA, Sheng et al. 2023, section 5):
no slots, no padding to a largest rank. Unlike there an idle adapter stays until its pages are
wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from evolute.engine.memory.pages import PageId

AdapterId = int
NO_ADAPTER: AdapterId = -1


class Loader(Protocol):
    """Copies adapters into pages. `start` copies beside the engine, until `finish` or `drop`."""

    def load(self, adapter: AdapterId, pages: list[PageId]) -> None: ...
    def start(self, adapter: AdapterId, pages: list[PageId]) -> None: ...
    def finish(self, adapter: AdapterId) -> None: ...
    def drop(self, adapter: AdapterId) -> None: ...


class NoLoader:
    """For schedules without a model."""

    def load(self, adapter: AdapterId, pages: list[PageId]) -> None: ...
    def start(self, adapter: AdapterId, pages: list[PageId]) -> None: ...
    def finish(self, adapter: AdapterId) -> None: ...
    def drop(self, adapter: AdapterId) -> None: ...


@dataclass(slots=True)
class Resident:
    """One adapter in pages. `is_loading`: its copy may still be under way."""

    pages: list[PageId]
    users: int = 0
    is_loading: bool = False


class Residency:
    """Invariants, asserted by `check`: an adapter has as many pages as its size; it is idle exactly
    when nobody uses it; no page twice."""

    def __init__(self, loader: Loader | None = None) -> None:
        self.num_pages = 0  # held
        self.num_idle_pages = 0  # of them, of adapters that nobody uses
        self.num_evicted = 0  # adapters, since the start
        self._loader: Loader = loader or NoLoader()
        self._sizes: dict[AdapterId, int] = {}
        self._residents: dict[AdapterId, Resident] = {}
        self._idle: dict[AdapterId, None] = {}  # least recently used first
        self._expected: frozenset[AdapterId] = frozenset()

    @property
    def sizes(self) -> Mapping[AdapterId, int]:
        """Pages of each adapter that needs some."""
        return self._sizes

    @property
    def num_resident(self) -> int:
        return len(self._residents)

    @property
    def num_absent(self) -> int:
        return len(self._sizes) - len(self._residents)

    def is_resident(self, adapter: AdapterId) -> bool:
        return adapter in self._residents

    def size(self, adapter: AdapterId) -> int:
        return self._sizes.get(adapter, 0)

    def users(self, adapter: AdapterId) -> int:
        resident = self._residents.get(adapter)
        return resident.users if resident else 0

    def set_size(self, adapter: AdapterId, num_pages: int) -> None:
        assert adapter not in self._residents, "resize what is resident"
        self._sizes[adapter] = num_pages
        if not num_pages:
            del self._sizes[adapter]

    def cost(self, adapter: AdapterId) -> int:
        """0 for one in use; idle ones count as available, so holding them costs all the same."""
        return 0 if self.users(adapter) else self.size(adapter)

    def hold(self, adapter: AdapterId) -> bool:
        if not self.size(adapter):
            return True
        resident = self._residents.get(adapter)
        if resident is None:
            return False
        if resident.is_loading:
            self._loader.finish(adapter)
            resident.is_loading = False
        if not resident.users:
            del self._idle[adapter]
            self.num_idle_pages -= len(resident.pages)
        resident.users += 1
        return True

    def put(self, adapter: AdapterId, pages: list[PageId], *, in_background: bool = False) -> None:
        assert len(pages) == self.size(adapter) and adapter not in self._residents
        self._residents[adapter] = Resident(pages, is_loading=in_background)
        self._idle[adapter] = None
        self.num_pages += len(pages)
        self.num_idle_pages += len(pages)
        (self._loader.start if in_background else self._loader.load)(adapter, pages)

    def release(self, adapter: AdapterId) -> None:
        if not self.size(adapter):
            return
        resident = self._residents[adapter]
        resident.users -= 1
        assert resident.users >= 0, f"adapter {adapter} was released more often than held"
        if not resident.users:
            self._idle[adapter] = None
            self.num_idle_pages += len(resident.pages)

    def expect(self, adapters: Collection[AdapterId]) -> None:
        """Replaces what was expected before: prefetches that came too early may go again."""
        self._expected = frozenset(adapters)

    def evict(self, count: int, *, expected: bool = False) -> list[PageId]:
        """Pages of idle adapters until there are `count`; `expected` ones only when asked for."""
        freed: list[PageId] = []
        for adapter in list(self._idle):
            if len(freed) >= count:
                break
            if expected or adapter not in self._expected:
                freed += self._take(adapter)
                self.num_evicted += 1
        return freed

    def resize(self, adapter: AdapterId, num_pages: int, extra: list[PageId]) -> list[PageId]:
        """Load a resident adapter's new version into its pages and `extra`; users keep it."""
        resident = self._residents[adapter]
        if resident.is_loading:
            self._loader.finish(adapter)
            resident.is_loading = False
        pages = resident.pages + extra
        resident.pages, rest = pages[:num_pages], pages[num_pages:]
        assert len(resident.pages) == num_pages, "too few pages for the new version"
        change = len(extra) - len(rest)
        self.num_pages += change
        self.num_idle_pages += 0 if resident.users else change
        self._sizes[adapter] = num_pages
        self._loader.load(adapter, resident.pages)
        return rest

    def give_up(self, adapter: AdapterId) -> list[PageId]:
        """Of one that could not be loaded and that nobody uses yet: pages that are nobody's now."""
        is_unused = adapter in self._residents and not self.users(adapter)
        return self._take(adapter) if is_unused else []

    def remove(self, adapter: AdapterId) -> list[PageId]:
        assert not self.users(adapter), f"adapter {adapter} is in use"
        pages = self._take(adapter) if adapter in self._residents else []
        self._sizes.pop(adapter, None)
        return pages

    def clear(self) -> None:
        """Nobody uses an adapter: whatever was believed before, none is resident now."""
        for adapter in self._residents:
            self._loader.drop(adapter)
        self._residents.clear()
        self._idle.clear()
        self.num_pages = self.num_idle_pages = 0

    def pages(self) -> list[PageId]:
        return [page for resident in self._residents.values() for page in resident.pages]

    def check(self) -> None:
        for adapter, resident in self._residents.items():
            assert len(resident.pages) == self._sizes[adapter] > 0, f"adapter {adapter}: size"
            assert (resident.users == 0) == (adapter in self._idle), f"adapter {adapter}: idle"
        held = self.pages()
        assert len(set(held)) == len(held) == self.num_pages, "an adapter's page is held twice"
        idle = sum(len(self._residents[adapter].pages) for adapter in self._idle)
        assert idle == self.num_idle_pages, f"{idle} pages are idle, counted {self.num_idle_pages}"

    # -- internals -----------------------------------------------------------

    def _take(self, adapter: AdapterId) -> list[PageId]:
        """The pages of an idle adapter; whoever gets them may write to them at once."""
        resident = self._residents.pop(adapter)
        assert not resident.users, f"adapter {adapter} is in use"
        del self._idle[adapter]
        self._loader.drop(adapter)
        self.num_pages -= len(resident.pages)
        self.num_idle_pages -= len(resident.pages)
        return resident.pages
