"""Checkpoints that are whole or not there.

    save(run, step, trainer, digest)   temporary folder -> fsync -> rename -> pointer, last
    load(run, trainer, digest)         the newest that is whole; -1 when there is none

A kill at any moment leaves the previous checkpoint and its pointer as they were.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolute.models import LoraWeights
from evolute.train.trainer import Trainer
from evolute.types import CheckpointError

logger = logging.getLogger(__name__)
POINTER = "latest"


def save(directory: Path, step: int, trainer: Trainer, digest: str, keep: int = 2) -> Path:
    """Write `directory/step_N` and let the pointer follow. Raises CheckpointError."""
    final = directory / f"step_{step:06d}"
    temporary = directory / f".{final.name}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file(_state(trainer), temporary / "state.safetensors")
        meta = {"step": step, "updates": trainer.num_updates, "digest": digest}
        (temporary / "meta.json").write_text(json.dumps(meta))
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        _sync(directory)
        _point(directory, final.name)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        free = shutil.disk_usage(directory if directory.exists() else directory.parent).free
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {directory} ({error.strerror}; "
            f"{free / 2**20:.0f} MB free). Free some space and resume; the last one is whole."
        ) from error
    _prune(directory, keep)
    return final


def load(directory: Path, trainer: Trainer, digest: str) -> int:
    """Restore the newest whole checkpoint; returns its step, or -1."""
    for folder in _newest_first(directory):
        try:
            meta = json.loads((folder / "meta.json").read_text())
            state = load_file(folder / "state.safetensors")
        except Exception as error:
            logger.warning("checkpoint %s is damaged (%s); trying an older one", folder, error)
            continue
        if meta["digest"] != digest:
            raise CheckpointError(
                f"{folder} was made with other settings; resume with the run's config.toml, or "
                "choose another run directory."
            )
        _restore(trainer, state)
        trainer.num_updates = int(meta["updates"])
        return int(meta["step"])
    return -1


# -- internals ---------------------------------------------------------------


def _state(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in _named(trainer.policy.lora):
        tensors[name] = parameter.detach().clone()
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value).clone()
    return tensors


def _restore(trainer: Trainer, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in _named(trainer.policy.lora):
            parameter.copy_(state[name])
            own = {k.split("/")[1]: v for k, v in state.items() if k.startswith(f"{name}/")}
            if own:
                trainer.optimizer.state[parameter] = own


def _named(lora: LoraWeights) -> list[tuple[str, Tensor]]:
    return [
        (f"{layer}.{module}.{part}", tensor)
        for (layer, module), pair in lora.tensors.items()
        for part, tensor in zip("AB", pair)
    ]


def _newest_first(directory: Path) -> list[Path]:
    pointer = directory / POINTER
    if not pointer.exists():
        return []
    latest = pointer.read_text().strip()
    folders = sorted(directory.glob("step_*"), reverse=True)
    return [folder for folder in folders if folder.name <= latest]


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


def _prune(directory: Path, keep: int) -> None:
    for folder in sorted(directory.glob("step_*"))[: -max(keep, 1)]:
        shutil.rmtree(folder, ignore_errors=True)
