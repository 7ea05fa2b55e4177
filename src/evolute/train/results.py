"""What does a run leave behind? Records that match its steps, and weights that others load.

cut_steps(path, last)                       drop records of steps that do not count
save_result(run_dir, weights, model, base)  `adapter` (PEFT) or `model` (Hugging Face)
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evolute.models import LoadedModel, LoraWeights, ModelWeights, export_model, save_peft
from evolute.telemetry import RecordWriter, read_records


def cut_steps(path: Path, last: int) -> None:
    """Drop records of steps after `last`; records without a step stay."""
    records = read_records(path)
    kept = [r for r in records if r.get("step", -1) <= last]
    if len(kept) == len(records):
        return  # a torn tail is cut off by the next writer
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)  # of a run that was killed while cutting
    with RecordWriter(temporary) as writer:
        for record in kept:
            writer.write(record)
    temporary.replace(path)


def save_result(
    run_dir: Path, weights: LoraWeights | ModelWeights, model: LoadedModel, base: str
) -> Path:
    """What was trained as others load it: a PEFT directory `adapter`, or a Hugging Face directory
    `model`. Readers see a whole one or none."""
    if isinstance(weights, LoraWeights):
        return _write(run_dir, "adapter", partial(save_peft, weights, base_model=base))
    trained = dataclasses.replace(model, weights=weights)
    return _write(run_dir, "model", partial(export_model, trained))


# -- internals ---------------------------------------------------------------


def _write(run_dir: Path, name: str, write: Callable[..., object]) -> Path:
    path, temporary = run_dir / name, run_dir / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    write(directory=temporary)
    shutil.rmtree(path, ignore_errors=True)
    temporary.replace(path)
    return path
