"""One measurement of one setting, in a process of its own that the proposer cannot reach."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evolute.envs.tuning.space import Change

REPLAY = (sys.executable, "-m", "evolute.cli.main", "bench", "replay")
# Asks the kernel to be killed with its parent, then becomes the command: a trial must not go on
# using the machine after the run was killed.
BOUND = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a trial's process said: its speed, and the digest of its answers. `error` when it
    crashed, hung, or said nothing sensible."""

    tokens_per_s: float = 0.0
    digest: str = ""
    error: str | None = None


class Runner(Protocol):
    """Measures a change once."""

    async def measure(self, change: Change) -> Measurement: ...


@dataclass(frozen=True, slots=True)
class SubprocessRunner:
    """Runs `evolute bench replay` on a recorded workload."""

    model: str
    workload: Path
    base: Change  # settings of the running system, which a change overrides
    command: Sequence[str] = REPLAY
    timeout_s: float = 120.0

    async def measure(self, change: Change) -> Measurement:
        settings = [f"--set={name}={_word(v)}" for name, v in {**self.base, **change}.items()]
        arguments = [
            *_bound(),
            *self.command,
            f"--model={self.model}",
            f"--workload={self.workload}",
        ]
        process = await asyncio.create_subprocess_exec(
            *arguments,
            *settings,
            "--json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), self.timeout_s)
        except TimeoutError:
            return Measurement(error=f"no result within {self.timeout_s:.0f} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            return Measurement(error=f"exit code {process.returncode}: {last[0][:300]}")
        return _parse(out.decode(errors="replace"))


def _bound() -> list[str]:
    """Words before a command that bind its life to ours; Linux only."""
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", BOUND, str(os.getpid())]


def _word(value: object) -> str:
    """As `--set` reads it back."""
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)


def _parse(text: str) -> Measurement:
    try:
        result = json.loads(text.strip().splitlines()[-1])
        return Measurement(float(result["figures"]["output_tokens_per_s"]), str(result["digest"]))
    except (IndexError, ValueError, KeyError, TypeError) as error:
        return Measurement(error=f"the trial printed no result ({error!r})")
