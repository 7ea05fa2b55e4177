"""Plots of a report, as SVG text to be put into a page."""

from __future__ import annotations

import io
import re
from typing import Any


def curve(steps: list[dict[str, Any]], names: list[str], title: str) -> str:
    """One line for each name over the steps."""
    figure, axes = _figure(3.0)
    for name in names:
        points = [(s["step"], s[name]) for s in steps if name in s]
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", ms=3, label=name)
    axes.set_xlabel("step")
    axes.set_title(title, fontsize=10)
    if len(names) > 1:
        axes.legend(fontsize=8)
    return _svg(figure)


def accuracy_bars(evals: list[dict[str, Any]]) -> str:
    """Held-out accuracy with 95 % intervals."""
    figure, axes = _figure(1.0 + 0.4 * len(evals))
    for row, one in enumerate(evals):
        left, right = one["mean"] - one["low"], one["high"] - one["mean"]
        axes.barh(row, one["mean"], color="#8aa", height=0.5)
        axes.errorbar(one["mean"], row, xerr=[[left], [right]], color="k", capsize=3)
    axes.set_yticks(range(len(evals)), [one["name"] for one in evals])
    axes.set_xlim(0, 1)
    axes.set_xlabel("held-out accuracy")
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    picture = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return f"<figure>{picture}</figure>"
