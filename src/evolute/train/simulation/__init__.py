"""Training runs on a virtual clock: the schedules of real runs, with simulated sides."""

from evolute.train.simulation.run import Prediction, predict, predict_all
from evolute.train.simulation.settings import (
    ClusterModel,
    EngineModel,
    Spread,
    TrainerModel,
    TrainingSimulation,
)
from evolute.train.simulation.table import table

__all__ = [
    "ClusterModel",
    "EngineModel",
    "Prediction",
    "Spread",
    "TrainerModel",
    "TrainingSimulation",
    "predict",
    "predict_all",
    "table",
]
