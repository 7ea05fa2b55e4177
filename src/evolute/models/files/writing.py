"""Directories that appear whole or not at all.

with new_directory(target, replaces=names) as partial:   write into `partial`
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from evolute.types import ConfigError


@contextmanager
def new_directory(target: Path, *, replaces: Collection[str] = ()) -> Iterator[Path]:
    """A directory to write into, which takes the name `target` when the block ends well.

    A directory in the way is replaced if it holds no other files than those named in
    `replaces`, else ConfigError. Who reads meanwhile finds the old one, for a moment none, then
    the new one; never a mixture. After an error the old one is as it was; so it is after a kill,
    unless that fell into the moment: then it is `.NAME.old`, and the next call puts it back.
    """
    partial, old = (target.parent / f".{target.name}.{part}" for part in ("partial", "old"))
    _put_back(old, target)
    others = sorted({entry.name for entry in _entries(target)} - set(replaces))
    if others:
        raise ConfigError(
            f"{target} holds {others[0]!r}{' and more' if others[1:] else ''}, which would be "
            "lost; name a new or empty directory."
        )
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in [*partial.iterdir(), partial]:
            _flush(file)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.rename(target)
        _flush(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        _put_back(old, target)


# -- internals ---------------------------------------------------------------


def _entries(target: Path) -> list[Path]:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file; name a new directory.")
    return list(target.iterdir()) if target.is_dir() else []


def _put_back(old: Path, target: Path) -> None:
    if old.exists() and not target.exists():
        old.rename(target)


def _flush(path: Path) -> None:
    """Bytes on the disk before the name is: a crash must not leave empty files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
