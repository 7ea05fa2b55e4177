"""A sandbox that runs nothing, and whether a real one works here.

ScriptedSandbox([report, ...])          answers in turn, then repeats the last
ScriptedSandbox(lambda script: report)  a function of the Script; exceptions are raised
sandbox.scripts                         what it was to run, in order
why_no_bubblewrap()                     empty where a program can be held
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable, Sequence

from evolute.envs.sandbox.contract import (
    Ending,
    RunReport,
    SandboxFeatures,
    SandboxLimits,
    Script,
)

Answer = RunReport | str | Exception
OK = RunReport(Ending.EXITED, "", "", 0.0, exit_code=0)


class ScriptedSandbox:
    """Implements `evolute.envs.sandbox.Sandbox`. A text is what a program printed before it ended
    well."""

    def __init__(self, reports: Sequence[Answer] | Callable[[Script], Answer] = (OK,)) -> None:
        self._reports, self._next = reports, 0
        self.scripts: list[Script] = []

    @property
    def features(self) -> SandboxFeatures:
        return SandboxFeatures(isolates=True, seccomp=True, version="scripted")

    async def run(self, script: Script, limits: SandboxLimits) -> RunReport:
        self.scripts.append(script)
        answer = self._answer(script)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return RunReport(Ending.EXITED, answer, "", 0.0, exit_code=0)
        return answer

    def _answer(self, script: Script) -> Answer:
        if callable(self._reports):
            return self._reports(script)
        answer = self._reports[min(self._next, len(self._reports) - 1)]
        self._next += 1
        return answer


@functools.cache
def why_no_bubblewrap() -> str:
    """The reason why programs cannot be held here; empty where they can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (Debian: apt-get install bubblewrap)"
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "true"]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap cannot run here: {error}"
    return f"bubblewrap cannot run here: {tried.stderr.strip()}" if tried.returncode else ""
