"""One measurement of one setting, in a process of its own that the proposer cannot reach."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from evolute.envs.tuning.space import Change

PR_SET_PDEATHSIG = 1  # linux/prctl.h
REPLAY = (sys.executable, "-m", "evolute.cli.main", "bench", "replay")


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
        settings = [f"--set={name}={value}" for name, value in {**self.base, **change}.items()]
        arguments = [*self.command, f"--model={self.model}", f"--workload={self.workload}"]
        process = await asyncio.create_subprocess_exec(
            *arguments,
            *settings,
            "--json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=_death_with_parent(),
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


def _death_with_parent() -> Callable[[], object] | None:
    """What a trial does first. On Linux the kernel then kills it when its parent is gone, however
    that ended. The library is looked up here: after a fork little may be done."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)


def _parse(text: str) -> Measurement:
    try:
        result = json.loads(text.strip().splitlines()[-1])
        return Measurement(float(result["figures"]["output_tokens_per_s"]), str(result["digest"]))
    except (IndexError, ValueError, KeyError, TypeError) as error:
        return Measurement(error=f"the trial printed no result ({error!r})")
