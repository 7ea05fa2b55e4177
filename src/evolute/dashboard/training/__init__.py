"""Pages of a training run, while it goes on or afterwards: curves, and every rollout to read."""

from evolute.dashboard.training.routes import training_router

__all__ = ["training_router"]
