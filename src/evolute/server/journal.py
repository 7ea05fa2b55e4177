"""What was changed while the server ran, for the process that takes its place.

    journal = Journal(directory)         reads what is there; Journal() keeps nothing on disk
    journal.adapters                     name -> where it was loaded from; None: unloaded
    journal.loaded(name, path), unloaded(name), updated(path, label), applied(settings)
    restore(engine, journal)             do it all again on an engine that has just started

Each note is one atomic replacement of a small file. A note that cannot be written is told in the
log and changes nothing else: the engine has what was asked for, only the next process will not.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from evolute.models import ModelWeights, load_model
from evolute.types import EvoluteError

logger = logging.getLogger(__name__)

FILE = "journal.json"


class Restorable(Protocol):
    def load_adapter(self, name: str, weights: str) -> Any: ...
    def load_weights(self, weights: ModelWeights, *, version: int) -> Any: ...
    def apply_settings(self, **changes: Any) -> Any: ...


class Journal:
    """Used from one thread. `weights` is {"path", "label"} of the last update of the base."""

    def __init__(self, directory: Path | None = None) -> None:
        self._file = directory and directory / FILE
        found: dict[str, Any] = {}
        if self._file and self._file.exists():
            found = json.loads(self._file.read_text())
        self.adapters: dict[str, str | None] = found.get("adapters", {})
        self.weights: dict[str, str | None] = found.get("weights", {})
        self.settings: dict[str, Any] = found.get("settings", {})

    def path(self, name: str) -> str:
        """Where an adapter came from; empty when that is not known."""
        return self.adapters.get(name) or ""

    def loaded(self, name: str, path: str) -> None:
        self.adapters[name] = path
        self._write()

    def unloaded(self, name: str) -> None:
        self.adapters[name] = None
        self._write()

    def updated(self, path: str | None, label: str) -> None:
        """`path` is None for weights that came as bytes: the next process cannot have them."""
        self.weights = {"path": path, "label": label}
        self._write()

    def applied(self, settings: Mapping[str, Any]) -> None:
        self.settings |= settings
        self._write()

    def _write(self) -> None:
        if self._file is None:
            self.adapters = {name: path for name, path in self.adapters.items() if path}
            return
        state = {"adapters": self.adapters, "weights": self.weights, "settings": self.settings}
        new = self._file.with_suffix(".new")
        try:
            new.write_text(json.dumps(state))
            os.replace(new, self._file)
        except OSError as error:
            logger.error("the journal cannot be written; a restart will not know this: %s", error)


def restore(engine: Restorable, journal: Journal) -> None:
    """What cannot be had any more is told in the log and forgotten; the rest is served."""
    path, label = journal.weights.get("path"), journal.weights.get("label")
    if path:
        try:
            engine.load_weights(load_model(path).weights, version=1)
        except (EvoluteError, OSError) as error:
            logger.error("weights %s of %s are lost; the first ones serve: %s", label, path, error)
            journal.weights = {}
    elif label:
        logger.error("weights %s came as bytes and are lost; the first ones serve", label)
        journal.weights = {}
    for name, source in list(journal.adapters.items()):
        try:
            if source:
                engine.load_adapter(name, source)
        except (EvoluteError, OSError) as error:
            logger.error("adapter %s is lost: %s", name, error)
            journal.adapters[name] = None
    if journal.settings:
        engine.apply_settings(**journal.settings)
