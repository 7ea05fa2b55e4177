"""What is left without bubblewrap: a process of its own with limits, and nothing around it.

    Unprotected()      a Sandbox whose features say that it isolates nothing

For machines where bubblewrap cannot be had and the programs are trusted. It sees files and network.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import suppress

from evolute.envs.sandbox.bubblewrap import check, package_path
from evolute.envs.sandbox.contract import RunReport, SandboxFeatures, SandboxLimits, Script
from evolute.envs.sandbox.slots import Slots
from evolute.envs.sandbox.watch import RUNNER, Launch, watch


class Unprotected:
    """Limits on memory, processor, files and output hold; max_processes does not: it would count
    all that this user runs. A child that leaves its session lives on."""

    def __init__(self, concurrency: int = 8) -> None:
        self._slots = Slots(concurrency)

    @property
    def features(self) -> SandboxFeatures:
        return SandboxFeatures(isolates=False, seccomp=False)

    async def run(self, script: Script, limits: SandboxLimits) -> RunReport:
        check(script, limits)
        paths = tuple(str(package_path(name).parent) for name in script.packages)
        async with self._slots.held():
            with tempfile.TemporaryDirectory(prefix="evolute-", ignore_cleanup_errors=True) as box:
                launch = Launch(
                    [sys.executable, "-s", "-S", "-B", str(RUNNER)],
                    box,
                    own_processes=2**20,
                    paths=paths,
                    environment={"PATH": "/usr/bin:/bin", "HOME": box, "PYTHONHASHSEED": "0"},
                    kill=_kill_family,
                )
                return await watch(launch, script, limits)


def _kill_family(leader: int) -> None:
    for pid in _family_of(leader):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _family_of(leader: int) -> list[int]:
    """The runner and its descendants, as far as they can still be told."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
    found = [leader]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
