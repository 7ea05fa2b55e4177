"""What can a run's figures be sent to?

    TRACKERS[name](run_dir, settings, token) -> Tracker
    tracker.log(step, {"train/reward_mean": 0.5}), tracker.close()
    tracker.token                     what finds the same run again when this one goes on

tensorboard    event files in RUN/tensorboard            pip install tensorboard
wandb          a run of the project WANDB_PROJECT        pip install wandb
mlflow         a run of MLFLOW_EXPERIMENT_NAME at        pip install mlflow, or mlflow-skinny
               MLFLOW_TRACKING_URI

Each is imported when it is asked for, and is configured by its own environment variables; without
them W&B's project and MLflow's experiment are "evolute", and MLflow writes into RUN/mlflow.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from evolute.types import ConfigError

PROJECT = "evolute"
MAX_PARAMETER = 6000  # MLflow refuses longer values


class Tracker(Protocol):
    """Where figures go. Any method may raise: the run goes on, and the figures are sent later."""

    token: str

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files; a run that goes on adds another file to the same folder."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], token: str) -> None:
        require("tensorboard")
        writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self._writer, self.token = writer(str(run_dir / "tensorboard")), "tensorboard"
        if not token:
            text = json.dumps(settings, indent=1, default=str)
            self._writer.add_text("settings", f"<pre>{text}</pre>", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Online, offline or off, as WANDB_MODE says."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], token: str) -> None:
        wandb = require("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run_dir.resolve().name),
            dir=str(run_dir),
            config=dict(settings),
            id=token or None,
            resume="allow" if token else None,
        )
        self.token = str(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlFlow:
    """One run of an experiment."""

    def __init__(self, run_dir: Path, settings: Mapping[str, Any], token: str) -> None:
        mlflow = require("mlflow")
        own = (run_dir / "mlflow").resolve()
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # asked for by MLflow 3
            mlflow.set_tracking_uri(own.as_uri())
        self._client = mlflow.MlflowClient()
        self.token = token or self._begin(run_dir.resolve().name, settings)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self.token, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.token)

    def _begin(self, name: str, settings: Mapping[str, Any]) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else self._client.create_experiment(experiment)
        run = str(self._client.create_run(place, run_name=name).info.run_id)
        for key, value in settings.items():
            self._client.log_param(run, key, str(value)[:MAX_PARAMETER])
        return run


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any], str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MlFlow,
}


def require(name: str) -> Any:
    """The tracker's own package, which has its name. Raises ConfigError when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the run cannot be sent to {name}: {error}. pip install {name}, or leave {name} out."
        ) from None
