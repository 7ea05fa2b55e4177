"""A load test as a page: curves of the dashboard over the records of the bench.

load_page(result) -> HTML that needs nothing but itself
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence

from evolute.bench.load import LoadResult, LoadRound, Record, text
from evolute.bench.load.figures import gaps, latency, ttft
from evolute.dashboard.page import Cell, note, page, section, show, table
from evolute.dashboard.plots import lines

MAX_POINTS = 60  # of one curve
Points = list[tuple[float, float]]


def load_page(done: LoadResult) -> str:
    """How the answers' times are distributed, what happened over time, and all figures."""
    rounds = {name: taken for name, taken in done.rounds.items() if taken}
    parts = [f"<h1>{show(done.result.config.get('workload', 'load test'))}</h1>"]
    parts += [f"<pre>{html.escape(text(done.result))}</pre>"]
    parts.append(section("Times", '<div class="plots">', *_times(rounds), "</div>"))
    first = {name: taken[0] for name, taken in rounds.items()}
    course = [
        lines("output tokens a second, first round", _curves(first, _speed), x_name="s", low=0),
        lines("requests in progress, first round", _curves(first, _in_progress), x_name="s", low=0),
    ]
    parts.append(section("Course", '<div class="plots">', *course, "</div>"))
    rows: list[list[Cell]] = [[name, value] for name, value in done.result.figures.items()]
    parts.append(
        section("Figures", note("medians of the rounds"), table(("figure", "value"), rows))
    )
    return page("load test", parts)


# -- internals ---------------------------------------------------------------


def _times(rounds: dict[str, list[LoadRound]]) -> list[str]:
    def each(of: Callable[[Record], float | None]) -> Callable[[Record], Iterable[float]]:
        return lambda r: [value for value in (of(r),) if value is not None]

    shown = {
        "time to first token": each(ttft),
        "between pieces": gaps,
        "whole answer": each(latency),
    }
    plots = []
    for title, of in shown.items():
        curves = {name: _distribution(taken, of) for name, taken in rounds.items()}
        title = f"{title}, ms: share of answers that took no longer, %"
        plots.append(lines(title, curves, x_name="ms", low=0, high=100))
    return plots


def _distribution(rounds: Sequence[LoadRound], of: Callable[[Record], Iterable[float]]) -> Points:
    good = [r for taken in rounds for r in taken.records if not r.error]
    values = sorted(1000 * value for r in good for value in of(r))
    number = len(values)
    picked = sorted({round(i * (number - 1) / MAX_POINTS) for i in range(MAX_POINTS + 1)})
    return [(values[i], 100 * (i + 1) / number) for i in picked] if number else []


def _curves(first: dict[str, LoadRound], of: Callable[[LoadRound], Points]) -> dict[str, Points]:
    return {name: of(taken) for name, taken in first.items()}


def _speed(taken: LoadRound) -> Points:
    """Tokens of each stretch of time; a piece stands for its share of the answer's tokens."""
    width = max(taken.seconds, 1e-9) / MAX_POINTS
    made = [0.0] * (MAX_POINTS + 1)
    for record in taken.records:
        for moment in record.token_s:
            place = min(int(moment / width), MAX_POINTS)
            made[place] += record.output_tokens / len(record.token_s)
    return [((i + 0.5) * width, tokens / width) for i, tokens in enumerate(made[:-1])]


def _in_progress(taken: LoadRound) -> Points:
    """Due and not yet ended."""
    width = max(taken.seconds, 1e-9) / MAX_POINTS
    moments = [(i + 0.5) * width for i in range(MAX_POINTS)]
    return [(at, float(sum(r.due_s <= at < r.end_s for r in taken.records))) for at in moments]
