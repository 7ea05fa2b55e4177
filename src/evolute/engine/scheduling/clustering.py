"""Few distinct adapters in a batch: those that run bring in their own kind first.

    clustering = Clustering(most, present)     `present` are the adapters of the batch
    clustering.order(turns, adapter_of, passes_of) -> those that wait, in two passes
    clustering.defers(adapter, passes)         would it have to wait for the second pass?

With `most` distinct adapters running, requests of other adapters are named after all those of the
adapters that run (S-LoRA, section 4.3). Fewer adapters in a batch are fewer bytes to read in each
step. Requests of the base model are never deferred, nor is who was passed over MAX_PASSES times:
it stands where the policy has it. So under `fcfs` clusters let at most MAX_PASSES - 1 + R later
ones pass a request, for R that may run at once, and the bound of lpm and dlpm
(`policies/ageing.py`) stays as it is. The bound of dlpm on service does too: in both passes only
tenants with a deficit left are named.

Pure: the engine's steps and the simulator of S-LoRA's tables use this class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from evolute.engine.memory import NO_ADAPTER, AdapterId
from evolute.engine.scheduling.policies.ageing import MAX_PASSES

T = TypeVar("T")
MAX_DEFERRED = 256  # that a step looks past


@dataclass(slots=True)
class Clustering:
    """`most` distinct adapters are preferred; 0: any number. `present` grows by `take`."""

    most: int
    present: set[AdapterId]
    num_deferred: int = 0

    def take(self, adapter: AdapterId) -> None:
        """One more of the batch."""
        if adapter != NO_ADAPTER:
            self.present.add(adapter)

    def defers(self, adapter: AdapterId, passes: int) -> bool:
        is_full = self.most and len(self.present) >= self.most
        is_new = adapter != NO_ADAPTER and adapter not in self.present
        return bool(is_full and is_new and passes < MAX_PASSES)

    def order(
        self,
        turns: Callable[[], Iterable[T]],
        adapter_of: Callable[[T], AdapterId],
        passes_of: Callable[[T], int],
    ) -> Iterator[T]:
        """`turns` gives all that wait and were not taken, anew at each call. Lazy."""
        for item in turns():
            if not self.defers(adapter_of(item), passes_of(item)):
                yield item
                continue
            self.num_deferred += 1
            if self.num_deferred == MAX_DEFERRED:
                break
        if self.num_deferred:
            yield from turns()
