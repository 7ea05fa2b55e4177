"""How do figures get from a run's own files to its trackers, once each, whatever happens?

    with follow(run_dir, ["tensorboard"]) as following:
        following.update()            sends the steps that are new in metrics.jsonl

`metrics.jsonl` stays the truth. `tracked.json` beside it says for each tracker how many records it
was sent, so that a run that goes on, or one whose tracker could not be reached, sends what is
missing and nothing twice. A tracker that fails never ends a run: it is told once, and tried again
with the next step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from evolute.dashboard.tracking.trackers import TRACKERS, Tracker, require
from evolute.telemetry.records import read_records
from evolute.types import ConfigError
from evolute.types.settings import nearest

LOG = logging.getLogger(__name__)
STEPS = {"train_step": "train", "sft_step": "sft"}  # kind of record -> what its names begin with


def check(names: Sequence[str]) -> None:
    """Raises ConfigError for a tracker that is unknown, or whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"no tracker {name!r}. {nearest(name, TRACKERS)}")
        require(name)


def follow(run_dir: Path, names: Sequence[str]) -> Following:
    """Raises ConfigError for trackers that `check` refuses."""
    check(names)
    return Following(run_dir, dict.fromkeys(names))


class Following:
    """The trackers of one run. Not for several threads."""

    def __init__(self, run_dir: Path, names: Mapping[str, Any]) -> None:
        self._run_dir, self._file = run_dir, run_dir / "tracked.json"
        self._state = _read(self._file)
        self._has_failed: set[str] = set()
        self._trackers: dict[str, Tracker] = {}
        try:
            for name in names:
                self._trackers[name] = self._open(name)
        except BaseException:
            self.close()
            raise

    def update(self) -> None:
        """Send each tracker the steps it has not had."""
        if not self._trackers:
            return
        records = read_records(self._run_dir / "metrics.jsonl")
        for name, tracker in self._trackers.items():
            with self._told(name):
                self._send(tracker, self._state[name], records)
        self._write()

    @property
    def sent(self) -> dict[str, int]:
        """Records that each tracker has had, or needs not."""
        return {name: int(state["sent"]) for name, state in self._state.items()}

    def close(self) -> None:
        """Ends the trackers, not the figures: what was not sent is sent when the run goes on."""
        for name, tracker in self._trackers.items():
            with self._told(name):
                tracker.close()
        self._trackers = {}

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._trackers:
            self.update()
        self.close()

    # -- internals ---------------------------------------------------------------

    def _open(self, name: str) -> Tracker:
        state = self._state.setdefault(name, {"sent": 0, "step": 0, "token": ""})
        tracker = TRACKERS[name](self._run_dir, _settings(self._run_dir), str(state["token"]))
        state["token"] = tracker.token
        self._write()
        return tracker

    def _send(
        self, tracker: Tracker, state: dict[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> None:
        """A run that goes on does its last steps again and writes them in their old places."""
        state["sent"] = min(int(state["sent"]), len(records))
        for record in records[state["sent"] :]:
            if record.get("kind") in STEPS:
                state["step"] = max(int(record.get("step", 0)), 0)
            values = dict(_values(record))
            if values:
                tracker.log(state["step"], values)
            state["sent"] += 1

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if name not in self._has_failed:
                LOG.warning(
                    "%s took no figures (%s: %s); they stay in metrics.jsonl and are sent again.",
                    *(name, type(error).__name__, error),
                )
            self._has_failed.add(name)
        else:
            self._has_failed.discard(name)

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._state))
        os.replace(new, self._file)


def _values(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Figures of a step; of an evaluation, which counts for the step before it."""
    kind = str(record.get("kind"))
    if kind in STEPS:
        yield from _named(STEPS[kind], record)
    elif kind == "eval":
        own = {name: record.get(name) for name in ("mean", "low", "high")}
        yield from _named(f"eval/{record.get('name')}", own)


def _named(prefix: str, record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and name != "step" and math.isfinite(value):
            yield f"{prefix}/{name}", float(value)


def _settings(run_dir: Path) -> dict[str, Any]:
    """Settings in force, flat: {"train.optimizer.lr": 1e-4}; empty before they are written."""
    file = run_dir / "config.toml"
    if not file.exists():
        return {}
    try:
        return dict(_flat("", tomllib.loads(file.read_text())))
    except tomllib.TOMLDecodeError:
        return {}


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """What was noted and is whole; without it all is sent again."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    noted = found.items() if isinstance(found, dict) else ()
    return {n: s for n, s in noted if isinstance(s, dict) and s.keys() >= {"sent", "step", "token"}}
