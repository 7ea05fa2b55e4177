"""Predictions for people: one line a schedule, and how much faster each is than the first."""

from __future__ import annotations

from collections.abc import Mapping

from evolute.train.simulation.run import Prediction

HEAD = ("schedule", "makespan s", "speed-up", "tokens/s", "engine", "trainer", "staleness", "most")


def table(predictions: Mapping[str, Prediction]) -> str:
    """engine: share of what it could have sampled; trainer: share of the time it was busy;
    staleness: mean and most, in updates, over trained tokens."""
    first = next(iter(predictions.values())).makespan_s
    rows = [HEAD]
    for name, found in predictions.items():
        rows.append(
            (
                name,
                f"{found.makespan_s:.0f}",
                f"{first / found.makespan_s:.2f}",
                f"{found.tokens_s:.0f}",
                f"{found.engine_used:.0%}",
                f"{1 - found.trainer_idle:.0%}",
                f"{found.staleness_mean:.2f}",
                str(found.staleness_max),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    )
