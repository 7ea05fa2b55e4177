"""Which sandbox can be had here?

make_sandbox(allow_unsafe=False)     bubblewrap; where it is missing an error, or no protection
"""

from __future__ import annotations

import shutil
import sys

from evolute.envs.sandbox.bubblewrap import Bubblewrap
from evolute.envs.sandbox.contract import Sandbox
from evolute.envs.sandbox.unsafe import Unprotected

_warned = False


def make_sandbox(*, allow_unsafe: bool = False, concurrency: int = 8) -> Sandbox:
    """Raises ConfigError without bubblewrap unless `allow_unsafe`, which is said on stderr once."""
    if allow_unsafe and shutil.which("bwrap") is None:
        _warn()
        return Unprotected(concurrency)
    return Bubblewrap(concurrency)


def _warn() -> None:
    global _warned
    if not _warned:
        _warned = True
        print(
            "warning: programs that models wrote run unprotected: they see this machine's files "
            "and network. Install bubblewrap to hold them.",
            file=sys.stderr,
        )
