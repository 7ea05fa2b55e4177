"""Training on the engine's own rollouts: credit, update, checkpoint, publication."""

from evolute.train.control import Controller, StepReport
from evolute.train.effective import effective_settings
from evolute.train.policy import Policy
from evolute.train.settings import AlgorithmConfig, OptimizerConfig, TrainConfig
from evolute.train.settings_ray import RayConfig, SyncConfig
from evolute.train.sync import PublishProof, publish
from evolute.train.trainer import Trainer, UpdateReport, make_policy

__all__ = [
    "AlgorithmConfig",
    "Controller",
    "OptimizerConfig",
    "Policy",
    "PublishProof",
    "RayConfig",
    "StepReport",
    "SyncConfig",
    "TrainConfig",
    "Trainer",
    "UpdateReport",
    "effective_settings",
    "make_policy",
    "publish",
]
