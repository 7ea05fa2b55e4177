"""Where do the weights of models lie, and under which names?

    Checkpoints(directory)
    .write(path, lora, optimizer=None, base_model=...) -> bytes      whole or not there
    .read(path, is_optimizer=...) -> (LoraWeights, optimizer or None)   checked by its fingerprint
    .delete(path), .archive(path) -> bytes of a tar.gz
    parse("tinker://RUN/weights/NAME") -> TinkerPath

A checkpoint is a directory that `peft` loads; a training one has the optimizer beside it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evolute.models import LoraWeights, load_peft, save_peft
from evolute.types import CheckpointError, EvoluteError, RequestError

SCHEME = "tinker://"
KINDS = {"weights": "training", "sampler_weights": "sampler"}
RUN = re.compile(r"[A-Za-z0-9_-]{1,128}(:[a-z]+:[0-9]{1,18})?")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,127}")
OPTIMIZER_FILE, META_FILE = "optimizer.safetensors", "evolute.json"


@dataclass(frozen=True, slots=True)
class TinkerPath:
    """tinker://RUN/KIND/NAME."""

    run: str  # the model's id
    kind: str  # weights or sampler_weights
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.run}/{self.kind}/{self.name}"

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"


def parse(text: str) -> TinkerPath:
    """Raises RequestError for what is no path of ours."""
    parts = text.removeprefix(SCHEME).split("/")
    is_sound = text.startswith(SCHEME) and len(parts) == 3 and RUN.fullmatch(parts[0])
    if not is_sound or parts[1] not in KINDS:
        raise RequestError(
            f"{text!r} is no path of a checkpoint; it is tinker://RUN/weights/NAME or "
            "tinker://RUN/sampler_weights/NAME."
        )
    return TinkerPath(parts[0], parts[1], check_name(parts[2]))


def check_name(name: str) -> str:
    """Raises RequestError for a name that could be another file's."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"the name {name!r} cannot be had: letters, digits and _.=+-, at most 128, and a "
            "letter, digit or _ first."
        )
    return name


class Checkpoints:
    """Directories below one. Used from several threads; a path is written by one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob("*/*/.*"):  # of a process that died
            final = left.parent / left.name.removeprefix(".").removesuffix(".old")
            if left.suffix == ".old" and not final.exists():
                os.replace(left, final)  # it died while it exchanged them
            shutil.rmtree(left, ignore_errors=True)

    def write(
        self,
        path: TinkerPath,
        lora: LoraWeights,
        *,
        optimizer: dict[str, Tensor] | None = None,
        base_model: str,
    ) -> int:
        """Returns its bytes. Raises CheckpointError, and then what was there is as it was."""
        final = self.place(path)
        partial = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            save_peft(lora, partial, base_model)
            if optimizer is not None:
                save_file(
                    {k: v.contiguous() for k, v in optimizer.items()}, partial / OPTIMIZER_FILE
                )
            meta = {"fingerprint": lora.fingerprint(), "base_model": base_model}
            (partial / META_FILE).write_text(json.dumps(meta))
            for file in partial.iterdir():
                _sync(file)
            _replace(partial, final)
            _sync(final.parent)
        except (OSError, SafetensorError, EvoluteError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"{path} could not be written ({error}). Free some space below "
                f"{self._directory} and try again."
            ) from error
        return sum(file.stat().st_size for file in final.iterdir())

    def read(
        self, path: TinkerPath, *, is_optimizer: bool = False
    ) -> tuple[LoraWeights, dict[str, Tensor] | None]:
        """Raises CheckpointError when it is damaged, RequestError when it is gone, or has no
        optimizer."""
        place = self.place(path)
        if not place.is_dir():
            raise RequestError(f"{path} is not there any more; save it again.")
        try:
            meta = json.loads((place / META_FILE).read_text())
            lora = load_peft(place)
        except (OSError, ValueError, EvoluteError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        if lora.fingerprint() != meta.get("fingerprint"):
            raise CheckpointError(f"{path} is damaged: its weights are not those that were saved.")
        if not is_optimizer:
            return lora, None
        try:
            return lora, load_file(place / OPTIMIZER_FILE)
        except FileNotFoundError:
            raise RequestError(f"{path} has no optimizer; load it without one.") from None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def exists(self, path: TinkerPath) -> bool:
        return self.place(path).is_dir()

    def delete(self, path: TinkerPath) -> None:
        shutil.rmtree(self.place(path), ignore_errors=True)

    def archive(self, path: TinkerPath) -> bytes:
        """A tar.gz of the PEFT directory. Raises RequestError when it is gone."""
        place, out = self.place(path), io.BytesIO()
        if not place.is_dir():
            raise RequestError(f"{path} is not there any more.")
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
            for file in sorted(place.glob("adapter_*")):
                tar.add(file, arcname=file.name)
        return out.getvalue()

    def place(self, path: TinkerPath) -> Path:
        return self._directory / quote(path.run, safe="") / path.kind / check_name(path.name)


# -- internals ---------------------------------------------------------------


def _replace(partial: Path, final: Path) -> None:
    """A directory cannot be renamed onto another: the old one steps aside first."""
    aside = final.parent / f".{final.name}.old"
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        with contextlib.suppress(OSError):
            os.replace(aside, final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
