"""Figures of a run where a team already looks: TensorBoard, Weights & Biases, MLflow."""

from evolute.dashboard.tracking.follow import Following, check, follow
from evolute.dashboard.tracking.trackers import TRACKERS, Tracker

__all__ = ["TRACKERS", "Following", "Tracker", "check", "follow"]
