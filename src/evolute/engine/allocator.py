"""How little freed memory does a process keep?

    keep_little()          at the start of one that serves for weeks: few arenas, fixed thresholds
    freeze_start()         what was made until now is for good: no collection looks at it again
    give_back_memory()     what is free already, to the system; also between two loads

glibc's defaults suit short programs. Each thread gets an arena of its own, up to eight for a core,
and none can use what another has free. And a large block that is freed raises the size from which
blocks are mapped singly, up to 32 MB, and what may stay free at an arena's end to twice that
(mallopt(3), M_MMAP_THRESHOLD): weights that are exchanged again and again leave holes of megabytes.
A parameter that the environment sets (MALLOC_ARENA_MAX, ..., GLIBC_TUNABLES) is left as it is;
other C libraries have no such parameters.
"""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass
from importlib.util import find_spec

MB = 2**20


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of mallopt: its number in malloc.h, the variable that also sets it, and our value."""

    number: int
    variable: str
    tunable: str
    value: int


PARAMETERS = (
    Parameter(-8, "MALLOC_ARENA_MAX", "arena_max", 2),
    Parameter(-3, "MALLOC_MMAP_THRESHOLD_", "mmap_threshold", 4 * MB),
    Parameter(-1, "MALLOC_TRIM_THRESHOLD_", "trim_threshold", 2 * MB),
)


def keep_little() -> list[str]:
    """Set what the environment leaves open; returns the names of what was set."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return []
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    free = [
        one
        for one in PARAMETERS
        if one.variable not in os.environ and f"malloc.{one.tunable}=" not in tunables
    ]
    return [one.tunable for one in free if mallopt(one.number, one.value)]


def freeze_start() -> None:
    """Modules, models and tables: hundreds of thousands of objects, a tenth of a second a look.
    Garbage in cycles is then found after some thousands of new objects, not some ten thousands."""
    gc.collect()
    gc.freeze()


def give_back_memory() -> None:
    """Nothing where the kernels are not built."""
    if find_spec("evolute.kernels._native") is not None:
        from evolute.kernels import give_back_memory as give_back

        give_back()
