"""What of a run is done: its directory, its settings, and the phases that are finished.

    create(run_dir, toml)              the directory with config.toml: whole, or not at all
    find(runs, name)                   the directory of a run that exists
    with RunState(run_dir) as state:   locked against a second process
        state.finish("base", result, [{"kind": "eval", ...}])

state.json is the truth: it is replaced whole, and holds each phase's result and the records that
the phase owes metrics.jsonl. Killed between the two files, the next process pays what is owed, so
that each record of a phase stands there exactly once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from evolute.telemetry import RecordWriter, read_records, repair
from evolute.types import ConfigError
from evolute.types.settings import nearest

Record = Mapping[str, Any]
LOCK = ".lock"


def create(run_dir: Path, toml: str) -> None:
    """A new run directory. Raises ConfigError when it exists."""
    if run_dir.exists():
        raise ConfigError(
            f"{run_dir} exists; go on with it by --resume {run_dir.name}, or take another --name."
        )
    temporary = run_dir.with_name(f".{run_dir.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    (temporary / "config.toml").write_text(toml)
    temporary.rename(run_dir)


def find(runs: Path, name: str) -> Path:
    """`runs/name`. Raises ConfigError with the nearest name when there is no such run."""
    run_dir = runs / name
    if (run_dir / "config.toml").is_file():
        return run_dir
    if run_dir.is_dir():
        raise ConfigError(
            f"{run_dir} has no config.toml, so its settings are unknown; put the file back, or "
            "start anew with another --name."
        )
    known = [path.parent.name for path in runs.glob("[!.]*/config.toml")]
    near = nearest(name, known) if known else f"There are no runs in {runs.absolute()}."
    raise ConfigError(f"no run {name!r}: {run_dir} does not exist. {near}")


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """The run is this process's while the block runs; a kill lets go of it as well. Raises
    ConfigError when another process has it."""
    with (run_dir / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir} is in use by process {owner}; stop that one first, or wait for it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class RunState:
    """Finished phases with their results. Use it as a context manager, which holds the lock."""

    def __init__(self, run_dir: Path) -> None:
        self._dir, self._file = run_dir, run_dir / "state.json"
        self._phases = _read(self._file)
        self._lock = ExitStack()

    def __enter__(self) -> RunState:
        with ExitStack() as stack:
            stack.enter_context(hold(self._dir))
            self._phases = _read(self._file)
            self._pay()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def is_done(self, phase: str) -> bool:
        return phase in self._phases

    def result(self, phase: str) -> Any:
        """What the phase gave; None while it is not done."""
        return self._phases.get(phase, {}).get("result")

    def finish(self, phase: str, result: Any, records: Sequence[Record]) -> None:
        """The phase is done: state first, then its records."""
        owed = [{**record, "phase": phase} for record in records]
        self._phases[phase] = {"result": result, "records": owed}
        temporary = self._file.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump(self._phases, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._file)
        self._pay()

    def _pay(self) -> None:
        """Write the records that finished phases owe; what stands there already is left, and what
        stands there of a phase that is not done goes."""
        path = self._dir / "metrics.jsonl"
        repair(path)  # before it is read: a line without its end counts for no one
        records = read_records(path)
        kept = [r for r in records if r.get("phase", "") in ("", *self._phases)]
        written = {json.dumps(r, sort_keys=True) for r in kept if "phase" in r}
        owed = [r for phase in self._phases.values() for r in phase["records"]]
        missing = [r for r in owed if json.dumps(r, sort_keys=True) not in written]
        if len(kept) < len(records):
            _replace(path, kept)
        if missing:
            with RecordWriter(path) as metrics:
                for record in missing:
                    metrics.write(record)


# -- internals ---------------------------------------------------------------


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    try:
        phases = json.loads(file.read_text())
        return {str(k): {"result": v["result"], "records": v["records"]} for k, v in phases.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({error!r}). Delete it and resume: finished phases are measured "
            "again, while training goes on from its checkpoints and tuning from its ledger."
        ) from error


def _replace(path: Path, records: Sequence[Record]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with RecordWriter(temporary) as writer:
        for record in records:
            writer.write(dict(record))
    os.replace(temporary, path)
