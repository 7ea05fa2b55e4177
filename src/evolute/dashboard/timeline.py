"""Where did the time go? Spans of one or more processes on one axis, as a page.

    write_timeline(trace_files, path) -> path

One lane for each thread; spans inside others lie below them. The table counts each name's own
time, without that of the spans inside it, so that the shares of one thread add up to its length.
"""

from __future__ import annotations

import html
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolute.dashboard.page import Cell, note, page, section, table
from evolute.dashboard.plots import Axis, ticks
from evolute.telemetry import Span, read_trace

WIDTH, LEFT, BAR, GAP = 1000.0, 150.0, 16.0, 14.0
MAX_DRAWN = 5000  # the longest; a page with more is slow to open
NUM_COLOURS = 4


@dataclass(frozen=True, slots=True)
class Placed:
    """A span, how many spans it lies in, and the seconds that no span inside it took."""

    span: Span
    depth: int
    own_s: float


def write_timeline(trace_files: Sequence[Path], path: Path) -> Path:
    """Draw all spans of the files. Without any the page says so."""
    spans = [span for file in trace_files for span in read_trace(file)]
    lanes = place(spans)
    parts = ["<h1>Timeline</h1>"]
    if not spans:
        parts.append(note("No span was recorded; run with tracing on."))
    else:
        parts.append(section("Lanes", _drawing(lanes, spans), _cut_note(len(spans))))
        parts.append(section("Totals", _totals(lanes)))
    temporary = path.with_suffix(".tmp")
    temporary.write_text(page("Timeline", parts), encoding="utf-8")
    os.replace(temporary, path)
    return path


def place(spans: Sequence[Span]) -> dict[tuple[int, str], list[Placed]]:
    """Spans by (process, thread), nested. Spans that overlap without nesting lie side by side."""
    by_lane: dict[tuple[int, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda s: (s.start_s, -s.end_s)):
        by_lane[span.process, span.thread].append(span)
    return {lane: _nest(found) for lane, found in sorted(by_lane.items())}


# -- internals ---------------------------------------------------------------


def _nest(spans: Sequence[Span]) -> list[Placed]:
    open_until: list[tuple[float, int]] = []  # end and number of the spans that are still open
    inner_s: dict[int, float] = defaultdict(float)
    depths = []
    for number, span in enumerate(spans):
        while open_until and open_until[-1][0] <= span.start_s:
            open_until.pop()
        if open_until and span.end_s <= open_until[-1][0]:
            inner_s[open_until[-1][1]] += span.end_s - span.start_s
        depths.append(len(open_until))
        open_until.append((span.end_s, number))
    return [
        Placed(span, depth, max(span.end_s - span.start_s - inner_s[number], 0.0))
        for number, (span, depth) in enumerate(zip(spans, depths))
    ]


def _drawing(lanes: Mapping[tuple[int, str], Sequence[Placed]], spans: Sequence[Span]) -> str:
    start = min(span.start_s for span in spans)
    scale = ticks(0.0, max(max(span.end_s for span in spans) - start, 1e-6), about=8)
    axis = Axis(scale[0], scale[-1], LEFT, WIDTH - 20)
    lengths = sorted((s.end_s - s.start_s for s in spans), reverse=True)
    shortest = lengths[MAX_DRAWN - 1] if len(lengths) > MAX_DRAWN else 0.0
    rooms = sorted({span.name.split("/")[0] for span in spans})
    colour_by_room = {room: i % NUM_COLOURS for i, room in enumerate(rooms)}
    parts, y = [], GAP
    for (process, thread), placed in lanes.items():
        parts.append(
            f'<text class="label" x="4" y="{y + 12:.0f}">{html.escape(thread)} ({process})</text>'
        )
        for one in placed:
            if one.span.end_s - one.span.start_s >= shortest:
                room = one.span.name.split("/")[0]
                parts.append(_bar(one, axis, start, y, colour_by_room[room]))
        y += (max(one.depth for one in placed) + 1) * BAR + GAP
    grid = [
        f'<path class="grid" d="M{axis.at(t):.1f} 4V{y:.0f}"/>'
        f'<text x="{axis.at(t):.1f}" y="{y + 12:.0f}" text-anchor="middle">{t:g} s</text>'
        for t in scale
    ]
    return (
        f'<figure style="max-width:none"><svg viewBox="0 0 {WIDTH:g} {y + 18:.0f}" role="img" '
        f'aria-label="timeline">{"".join(grid)}{"".join(parts)}</svg></figure>'
    )


def _bar(one: Placed, axis: Axis, start: float, y: float, colour: int) -> str:
    left, right = axis.at(one.span.start_s - start), axis.at(one.span.end_s - start)
    ids = ", ".join(f"{k} {v}" for k, v in one.span.ids.items())
    seconds = one.span.end_s - one.span.start_s
    text = f"{one.span.name} {seconds:.4g} s {ids}".strip()
    return (
        f'<rect class="f{colour}" x="{left:.2f}" y="{y + one.depth * BAR:.1f}" '
        f'width="{max(right - left, 0.4):.2f}" height="{BAR - 2:g}" rx="1.5">'
        f"<title>{html.escape(text)}</title></rect>"
    )


def _totals(lanes: Mapping[tuple[int, str], Sequence[Placed]]) -> str:
    own: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for placed in lanes.values():
        for one in placed:
            own[one.span.name].append((one.own_s, one.span.end_s - one.span.start_s))
    rows: list[list[Cell]] = [
        [name, len(times), sum(o for o, _ in times), sum(t for _, t in times),
         sum(t for _, t in times) / len(times), max(t for _, t in times)]
        for name, times in sorted(own.items(), key=lambda item: -sum(o for o, _ in item[1]))
    ]  # fmt: skip
    head = ["span", "times", "own (s)", "with what is inside (s)", "mean (s)", "longest (s)"]
    return table(head, rows)


def _cut_note(number: int) -> str:
    if number <= MAX_DRAWN:
        return ""
    return note(f"The {MAX_DRAWN} longest of {number} spans are drawn; the totals count all.")
