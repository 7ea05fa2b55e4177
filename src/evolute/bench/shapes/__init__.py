"""Made workloads: what is asked, in what order, at what moments. One file a source of them."""

from evolute.bench.shapes.item import Dice, WorkItem

__all__ = ["Dice", "WorkItem"]
