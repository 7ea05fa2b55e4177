"""Checkpoints that are whole or not there.

    save(run, step, trainer, digest)   temporary folder -> fsync -> rename -> pointer, last
    load(run, trainer, digest)         the newest that is whole; -1 when none was ever made
    state_of(trainer), restore(trainer, state)      what it holds, for trainers in other processes

A kill at any moment, and a full disk, leave the previous checkpoint and its pointer as they were.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolute.train.parallel import full, like
from evolute.train.policy import Policy
from evolute.types import CheckpointError, TrainingError

logger = logging.getLogger(__name__)
POINTER = "latest"
EXTRA = "extra/"  # no parameter is named so


@runtime_checkable
class Resumable(Protocol):
    """What a checkpoint holds of a trainer, whatever it learns from."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    num_updates: int


@runtime_checkable
class Accompanied(Protocol):
    """A trainer with more to keep than policy and optimizer: a critic, a coefficient."""

    def extra_state(self) -> dict[str, Tensor]: ...
    def load_extra_state(self, state: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True, slots=True)
class TrainerState:
    """Everything that a trainer goes on from: parameters by name, what belongs to the parameter
    NAME of the optimizer as NAME/KEY, and extras."""

    updates: int
    tensors: dict[str, Tensor]


@runtime_checkable
class Remote(Protocol):
    """A trainer in other processes: its state comes and goes whole."""

    def checkpoint_state(self) -> TrainerState: ...
    def check_state(self, state: TrainerState) -> None:
        """Raise KeyError or ValueError when it is not of this policy; nothing is changed."""

    def restore_state(self, state: TrainerState) -> None: ...


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a whole checkpoint folder holds."""

    step: int
    updates: int
    digest: str
    tensors: dict[str, Tensor]


def save(
    directory: Path, step: int, trainer: Resumable | Remote, digest: str, keep: int = 2
) -> Path:
    """Write `directory/step_N` and let the pointer follow. Raises CheckpointError."""
    final = directory / f"step_{step:06d}"
    temporary = directory / f".{final.name}.tmp"
    state = state_of(trainer)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(state.tensors, temporary / "state.safetensors")
        meta = {"step": step, "updates": state.updates, "digest": digest}
        (temporary / "meta.json").write_text(json.dumps(meta))
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync(directory)
        _point(directory, final.name)
    except (OSError, SafetensorError) as error:  # safetensors wraps the system's errors
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {directory} ({error}; "
            f"{_free_mb(directory):.0f} MB free). Free some space and resume; the last one is "
            "whole."
        ) from error
    _prune(directory, keep)
    return final


def load(directory: Path, trainer: Resumable | Remote, digest: str) -> int:
    """Restore the newest whole checkpoint; returns its step, or -1 when there is none.

    Raises CheckpointError when there are some and none is whole, or for other settings.
    """
    folders = _newest_first(directory)
    for folder in folders:
        try:
            saved = _read(folder)
            if saved.digest == digest:
                check_state(trainer, TrainerState(saved.updates, saved.tensors))
        except TrainingError:  # who trains is gone, which says nothing of the checkpoint
            raise
        except Exception as error:
            logger.warning("checkpoint %s is damaged (%s); trying an older one", folder, error)
            continue
        if saved.digest != digest:
            raise CheckpointError(
                f"{folder} was made with other settings or data; resume with the run's "
                "config.toml, or choose another run directory."
            )
        restore(trainer, TrainerState(saved.updates, saved.tensors))
        return saved.step
    if folders:
        raise CheckpointError(
            f"no checkpoint in {directory} is whole. Bring one back from a copy, or delete the "
            "directory to train again from the start."
        )
    return -1


def check_state(trainer: Resumable | Remote, state: TrainerState) -> None:
    """Before anything of the trainer is changed. Raises KeyError or ValueError."""
    if isinstance(trainer, Remote):
        trainer.check_state(state)
        return
    for name, parameter in trainer.policy.named_parameters():
        if state.tensors[name].shape != parameter.shape:
            raise ValueError(f"{name} has another shape")


def state_of(trainer: Resumable | Remote) -> TrainerState:
    """A copy, which later training does not change."""
    if isinstance(trainer, Remote):
        return trainer.checkpoint_state()
    tensors = {}
    for name, parameter in trainer.policy.named_parameters():
        tensors[name] = full(parameter.detach()).clone()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = full(torch.as_tensor(value)).clone()
    if isinstance(trainer, Accompanied):
        tensors |= {EXTRA + name: value for name, value in trainer.extra_state().items()}
    return TrainerState(trainer.num_updates, tensors)


def restore(trainer: Resumable | Remote, state: TrainerState) -> None:
    """The trainer goes on from there."""
    if isinstance(trainer, Remote):
        trainer.restore_state(state)
        return
    tensors = state.tensors
    with torch.no_grad():
        for name, parameter in trainer.policy.named_parameters():
            parameter.copy_(like(parameter, tensors[name]))
            own = {
                k.split("/")[1]: like(parameter, v) if v.shape == parameter.shape else v
                for k, v in tensors.items()
                if k.startswith(f"{name}/")
            }
            trainer.optimizer.state.pop(parameter, None)
            if own:
                trainer.optimizer.state[parameter] = own
    if isinstance(trainer, Accompanied):
        found = {k[len(EXTRA) :]: v for k, v in tensors.items() if k.startswith(EXTRA)}
        trainer.load_extra_state(found)
    trainer.num_updates = state.updates


# -- internals ---------------------------------------------------------------


def _read(folder: Path) -> _Saved:
    meta = json.loads((folder / "meta.json").read_text())
    tensors = load_file(folder / "state.safetensors")
    return _Saved(int(meta["step"]), int(meta["updates"]), str(meta["digest"]), tensors)


def _newest_first(directory: Path) -> list[Path]:
    """Folders up to the pointer. A folder is renamed into place whole, so when the pointer itself
    is lost or torn, the newest folder says as much."""
    folders = sorted(directory.glob("step_*"), reverse=True)
    pointer = directory / POINTER
    latest = pointer.read_text(errors="replace").strip() if pointer.exists() else ""
    if latest.startswith("step_") and latest[5:].isdigit():
        return [folder for folder in folders if folder.name <= latest]
    return folders


def _point(directory: Path, name: str) -> None:
    temporary = directory / f".{POINTER}.tmp"
    temporary.write_text(name)
    _sync(temporary)
    os.replace(temporary, directory / POINTER)
    _sync(directory)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free_mb(directory: Path) -> float:
    there = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free / 2**20


def _prune(directory: Path, keep: int) -> None:
    for folder in sorted(directory.glob("step_*"))[: -max(keep, 1)]:
        shutil.rmtree(folder, ignore_errors=True)
