"""Made workloads, by name: what is asked, in what order, at what moments."""

from collections.abc import Callable

from evolute.bench.shapes import plain, sglang, slora, vtc
from evolute.bench.shapes.item import Dice, WorkItem

SHAPES: dict[str, Callable[[Dice], list[WorkItem]]] = {
    **plain.SHAPES,
    **sglang.SHAPES,
    **vtc.SHAPES,
    **slora.SHAPES,
}

__all__ = ["SHAPES", "Dice", "WorkItem"]
