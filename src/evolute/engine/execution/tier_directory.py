"""The directory and the file of a second tier on disk: made private, locked, removed.

    TierDirectory(num_bytes, parent) -> .file, .path, close()
    remove_stale(parent) -> count

Each engine has a directory of its own below `parent`, with mode 0700. Its file is locked for as
long as the process lives, so what a killed process left is known by its lock, which is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from evolute.types import ConfigError

logger = logging.getLogger(__name__)
PREFIX, NAME = "evolute-tier-", "slots"
YOUNG_S = 60.0  # one without the file may be in the making


class TierDirectory:
    """A file of `num_bytes`, its room on disk taken at once. Raises ConfigError when it cannot be
    had; `parent` is made if it is missing, and is the system's temporary directory unless given."""

    def __init__(self, num_bytes: int, parent: str = "") -> None:
        above = Path(parent or tempfile.gettempdir())
        try:
            above.mkdir(parents=True, exist_ok=True)
            remove_stale(above)
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above))
        except OSError as error:
            raise ConfigError(f"engine.tier_dir: {above} cannot be used: {error}.") from None
        self.file = -1
        self._removed = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            self.file = os.open(self.path / "new", flags, 0o600)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(self.path / "new", self.path / NAME)  # it is never seen without its lock
            os.posix_fallocate(self.file, 0, num_bytes)
        except OSError as error:
            free = shutil.disk_usage(above).free
            self.close()
            raise ConfigError(
                f"engine.tier_mb is {num_bytes // 2**20}, but {above} has {free // 2**20} MB free: "
                f"{error.strerror}. Lower tier_mb or choose another engine.tier_dir."
            ) from None

    def close(self) -> None:
        """Remove it; at the latest when the process ends. Idempotent."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        self._removed()


def remove_stale(parent: Path) -> int:
    """Remove directories of processes that live no more; returns how many. Others' are left."""
    found = 0
    for path in parent.glob(f"{PREFIX}*"):
        try:
            is_ours = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
            if is_ours and _is_stale(path):
                shutil.rmtree(path)
                logger.warning("removed %s, left by a process that lives no more", path)
                found += 1
        except OSError:  # somebody else was faster
            continue
    return found


# -- internals ---------------------------------------------------------------


def _is_stale(path: Path) -> bool:
    try:
        file = os.open(path / NAME, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - path.stat().st_mtime > YOUNG_S
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(file)
    return True
