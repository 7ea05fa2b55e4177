"""What holds for all programs of a process?

global_config                    SGLang's knobs
set_default_backend(backend)     for runs that name none
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.lang.account import Account
from evolute.lang.backend import TextBackend
from evolute.types import Backend


@dataclass(slots=True)
class GlobalConfig:
    """Change its fields before a run. SGLang's others are refused: there is nothing to set."""

    enable_precache_with_tracing: bool = True  # run_batch computes what its prompts share first
    enable_fork_hints: bool = True  # a prompt is computed once before several go on from it
    default_backend: TextBackend | Backend | None = None
    default_account: Account | None = None  # for runs that name none

    def reset(self) -> None:
        """Back to what a process begins with."""
        fresh = GlobalConfig()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))


global_config = GlobalConfig()


def set_default_backend(backend: TextBackend | Backend | None) -> None:
    """The backend of runs that name none, for this process."""
    global_config.default_backend = backend
