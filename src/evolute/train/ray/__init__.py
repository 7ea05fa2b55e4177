"""A run as Ray actors around the scheduler that runs in process: thin shells, imported lazily.

    with RayRun(config, run_dir, model) as ray:
        Controller(config, run_dir, model, ray.engines, players=ray.players, crew=ray.crew)

Without Ray everything here raises ConfigError with `pip install evolute[ray]`.
"""

from evolute.train.ray.run import RayRun

__all__ = ["RayRun"]
