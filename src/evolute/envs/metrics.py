"""What episodes tell Prometheus."""

from __future__ import annotations

from evolute.telemetry import counter
from evolute.types import Rollout

EPISODES = counter("envs/episodes", "episodes played, by how they ended", ("outcome",))
FAILED = counter("envs/episodes_failed", "failed episodes, by class of error", ("failure",))


def count(rollout: Rollout) -> Rollout:
    """Note how an episode ended; returns it."""
    EPISODES.labels(rollout.outcome.value).inc()
    if rollout.failure:
        FAILED.labels(rollout.failure).inc()
    return rollout
