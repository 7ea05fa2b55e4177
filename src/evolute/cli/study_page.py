"""The study of demonstrations as a page: which changes to traces did the student feel?

study_page(result) -> HTML that needs nothing but itself
"""

from __future__ import annotations

from collections.abc import Sequence

from evolute.bench.result import BenchResult
from evolute.dashboard.page import Cell, note, page, section, table
from evolute.dashboard.plots import Interval, intervals

SIGNS = ("words", "reflections", "first_goes_back", "unfinished", "coherence", "valid")


def study_page(result: BenchResult) -> str:
    """Accuracies and costs with their intervals, signs of the answers, and every figure."""
    figures = result.figures
    names = ["base", *result.config["variants"]]
    changed = [name for name in names if f"cost/{name}" in figures]
    plots = [
        intervals("share of held-out problems right", _rows(figures, "accuracy", names)),
        intervals("cost beside right traces", _rows(figures, "cost", changed), mark=0),
    ]
    head = ("variant", "accuracy", "low", "high", "kept of the gain", *SIGNS)
    columns = ("accuracy", "accuracy_low", "accuracy_high", "kept", *SIGNS)
    rows: list[list[Cell]] = [[n, *(figures.get(f"{c}/{n}") for c in columns)] for n in names]
    others: list[list[Cell]] = [
        [n, v] for n, v in figures.items() if n.rpartition("/")[2] not in names
    ]
    return page(
        "demonstrations",
        [
            "<h1>Which changes to its demonstrations does a student feel?</h1>",
            *(note(text) for text in result.notes),
            section("Variants", '<div class="plots">', *plots, "</div>", table(head, rows)),
            section("Groups", table(("figure", "value"), others)),
        ],
    )


# -- internals ---------------------------------------------------------------


def _rows(figures: dict[str, float], what: str, names: Sequence[str]) -> list[Interval]:
    return [
        Interval(n, *(figures[f"{key}/{n}"] for key in (what, f"{what}_low", f"{what}_high")))
        for n in names
    ]
