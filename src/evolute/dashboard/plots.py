"""Plots as SVG text, drawn by hand so that they follow the page's colours, light and dark.

lines(title, series_by_name)        values over steps
intervals(title, rows)              means with their 95 % intervals, one row each
bars(title, seconds_by_name)        lengths

What is missing or not finite leaves a gap; a plot of nothing is the empty string.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 22.0, 34.0
ROW = 30.0
NUM_COLOURS = 4
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its interval; an end may be infinite."""

    name: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Axis:
    """Values `low` to `high` over pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        held = min(max(value, self.low), self.high)
        return self.start + (held - self.low) / (self.high - self.low) * (self.end - self.start)


def lines(
    title: str,
    series_by_name: Mapping[str, Points],
    *,
    low: float | None = None,
    high: float | None = None,
    limit: float | None = None,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
    x_name: str = "step",
) -> str:
    """Curves over the steps; `limit` is a dashed line, `bands` the (x, low, high) around a curve.
    The range grows to hold the curves; a band is cut at its edges. Steps are whole; any other
    `x_name` is a unit."""
    finite = {
        name: [p for p in s if all(map(math.isfinite, p))] for name, s in series_by_name.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return ""
    points = [point for series in finite.values() for point in series]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    marks = [value for value in (low, high, limit) if value is not None]
    x_ticks = [t for t in ticks(min(xs), max(xs)) if min(xs) <= t <= max(xs)]
    if x_name == "step":
        x_ticks = [t for t in x_ticks if t == int(t)]
    y_ticks = ticks(min([*ys, *marks]), max([*ys, *marks]))
    x_axis = Axis(*_widen(min(xs), max(xs)), LEFT, WIDTH - RIGHT)
    y_axis = Axis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_y_grid(y_axis, y_ticks)]
    parts += [_text(x_axis.at(x), HEIGHT - BOTTOM + 16, f"{x:g}", "middle") for x in x_ticks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, x_name, "middle"))
    if limit is not None:
        y = y_axis.at(limit)
        parts.append(f'<path class="mark" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT + 4, y - 4, f"bound {limit:g}"))
    for colour, (name, series) in enumerate(finite.items()):
        parts.append(_band((bands or {}).get(name, ()), x_axis, y_axis, colour % NUM_COLOURS))
        parts.append(_curve(name, series, x_axis, y_axis, colour % NUM_COLOURS, x_name))
    if len(finite) > 1:
        parts.append(_legend(list(finite)))
    return _figure(title, HEIGHT, parts)


def intervals(title: str, rows: Sequence[Interval], *, mark: float | None = None) -> str:
    """One row each; `mark` is a dashed line, such as the ratio 1. Infinite ends reach the edge."""
    if not rows:
        return ""
    values = [v for row in rows for v in (row.mean, row.low, row.high) if math.isfinite(v)]
    scale = ticks(min([*values, *_given(mark)]), max([*values, *_given(mark)]))
    names = max(len(row.name) for row in rows)
    axis = Axis(scale[0], scale[-1], min(20 + 6.2 * names, WIDTH / 3), WIDTH - 40)
    bottom = TOP + ROW * len(rows)
    parts = []
    for tick in scale:
        x = axis.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        parts.append(_text(x, bottom + 14, f"{tick:g}", "middle"))
    if mark is not None:
        parts.append(f'<path class="mark" d="M{axis.at(mark):.1f} {TOP}V{bottom}"/>')
    for i, row in enumerate(rows):
        parts.append(_whiskers(row, axis, TOP + ROW * (i + 0.5)))
    return _figure(title, bottom + 22, parts)


def bars(title: str, seconds_by_name: Mapping[str, float]) -> str:
    """Lengths beside each other, with their seconds."""
    rows = {name: s for name, s in seconds_by_name.items() if math.isfinite(s)}
    if not rows:
        return ""
    left = min(20 + 6.2 * max(map(len, rows)), WIDTH / 3)
    axis = Axis(0.0, max([*rows.values(), 1e-9]), left, WIDTH - 80)
    parts = []
    for i, (name, value) in enumerate(rows.items()):
        y = TOP + ROW * i
        width = axis.at(value) - left
        parts.append(f'<rect class="f0" x="{left}" y="{y:.1f}" width="{width:.1f}" height="16"/>')
        parts.append(_text(left - 8, y + 12, name, "end", "label"))
        parts.append(_text(left + width + 6, y + 12, f"{value:.1f} s"))
    return _figure(title, TOP + ROW * len(rows), parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`; at least two."""
    low, high = _widen(low, high)
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


# -- internals ---------------------------------------------------------------


def _widen(low: float, high: float) -> tuple[float, float]:
    size = max(abs(low), abs(high))
    if high - low > max(1e-12 * size, 1e-200):
        return low, high
    around = size / 2 if size > 1e-200 else 0.5
    return low - around, high + around


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _y_grid(axis: Axis, scale: Sequence[float]) -> str:
    parts = []
    for tick in scale:
        y = axis.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    return "".join(parts)


def _band(
    band: Sequence[tuple[float, float, float]], x_axis: Axis, y_axis: Axis, colour: int
) -> str:
    finite = [edge for edge in band if all(map(math.isfinite, edge))]
    if len(finite) < 2:
        return ""
    outline = [(x, high) for x, _, high in finite] + [(x, low) for x, low, _ in finite[::-1]]
    path = "L".join(f"{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for x, y in outline)
    return f'<path class="band f{colour}" d="M{path}Z"/>'


def _curve(name: str, series: Points, x_axis: Axis, y_axis: Axis, colour: int, x_name: str) -> str:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in series]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(
        f'<circle class="f{colour}" cx="{px:.1f}" cy="{py:.1f}" r="2.6">'
        f"<title>{html.escape(name)}, {x_name} {x:g}: {y:.4g}</title></circle>"
        for (px, py), (x, y) in zip(places, series)
    )
    return f'<path class="line s{colour}" d="{path}"/>{dots}'


def _legend(names: Sequence[str]) -> str:
    x, parts = LEFT, []
    for colour, name in enumerate(names):
        parts.append(_text(x, 12, name, "start", f"f{colour % NUM_COLOURS}"))
        x += 18 + 6.2 * len(name)
    return "".join(parts)


def _whiskers(row: Interval, axis: Axis, y: float) -> str:
    left, right = axis.at(row.low), axis.at(row.high)
    text = f"{row.name}: {row.mean:.3g} ({row.low:.3g} to {row.high:.3g})"
    ends = "".join(
        f"M{x:.1f} {y - 5:.1f}v10"
        for x, end in ((left, row.low), (right, row.high))
        if math.isfinite(end)
    )
    return (
        f'<path class="line s0" d="M{left:.1f} {y:.1f}H{right:.1f}{ends}"/>'
        f'<circle class="f0" cx="{axis.at(row.mean):.1f}" cy="{y:.1f}" r="4">'
        f"<title>{html.escape(text)}</title></circle>"
        + _text(axis.start - 12, y + 4, row.name, "end", "label")
    )


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
        f"{html.escape(text)}</text>"
    )


def _figure(title: str, height: float, parts: Sequence[str]) -> str:
    name = html.escape(title)
    return (
        f"<figure><figcaption>{name}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{name}">'
        f"{''.join(parts)}</svg></figure>"
    )
