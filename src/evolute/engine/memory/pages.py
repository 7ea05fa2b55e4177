"""Pages of keys and values, or of adapters: who may write where.

allocate(n) -> pages or None     all or nothing
free(pages)                      give back; twice is an error of ours
rebuild(held)                    repair: all but these are free
"""

from __future__ import annotations

from collections.abc import Iterable

PageId = int


class PagePool:
    """A fixed number of pages. Invariant: each is free or handed out, never both."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_free = bytearray(b"\x01") * num_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[PageId] | None:
        """`count` pages, or None and nothing taken."""
        if count > len(self._free):
            return None
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._is_free[page] = 0
        return pages

    def free(self, pages: Iterable[PageId]) -> None:
        for page in pages:
            assert not self._is_free[page], f"page {page} was freed twice"
            self._is_free[page] = 1
            self._free.append(page)

    def free_pages(self) -> list[PageId]:
        return list(self._free)

    def is_sound(self) -> bool:
        """Whether the list and the marks say the same."""
        return len(self._free) == len(set(self._free)) == sum(self._is_free)

    def rebuild(self, held: Iterable[PageId]) -> None:
        """Whatever was believed before: these are handed out, and all others are free."""
        self._is_free = bytearray(b"\x01") * self.num_pages
        for page in held:
            self._is_free[page] = 0
        self._free = [page for page in range(self.num_pages - 1, -1, -1) if self._is_free[page]]
