"""What runs in a sandbox, under which limits, and what became of it?

    SandboxLimits        seconds, memory, processes, disk, output
    Script               a Python program with its input
    RunReport, Ending    how it ended and what it wrote
    Sandbox              the protocol: bubblewrap, or a scripted double

A program that misbehaves is data, never an exception: `Ending` says what stopped it. SandboxError
means that the sandbox itself broke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Protocol, runtime_checkable

from evolute.types import ConfigError


class Ending(StrEnum):
    """What stopped a program. The first that happened counts."""

    EXITED = "exited"  # by itself, whatever its exit code
    TIMEOUT = "timeout"  # of seconds or of processor seconds
    MEMORY = "memory"  # MemoryError, or killed by the system for memory
    OUTPUT = "output"  # it wrote more than was allowed
    SIGNAL = "signal"  # a signal that nobody here sent


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Of one program with all its children. Raises ConfigError for what cannot be kept."""

    seconds: float = 2.0  # wall clock, from its first instruction
    cpu_seconds: float = 2.0
    memory_mb: int = 512  # address space of one process
    max_processes: int = 16  # threads count
    max_open_files: int = 64
    disk_mb: int = 16  # of its working directory, of /tmp, and of one file
    max_output_bytes: int = 65_536  # of stdout and of stderr, each

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not 0 < value < 2**31:  # also catches NaN
                raise ConfigError(
                    f"sandbox limit {one.name} is {value}; it must lie between 0 and 2**31."
                )


@dataclass(frozen=True, slots=True)
class Script:
    """A Python program. `files` are put into its working directory: plain names, no folders."""

    source: str
    stdin: str = ""
    arguments: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    packages: tuple[str, ...] = ()  # importable besides the standard library, e.g. ("chess",)


@dataclass(frozen=True, slots=True)
class RunReport:
    """Invariant: `exit_code` is set exactly when `ending` is EXITED.

    Texts are UTF-8 with what is not replaced by U+FFFD, cut at `max_output_bytes`.
    """

    ending: Ending
    stdout: str
    stderr: str
    seconds: float
    exit_code: int | None = None
    signal: int | None = None  # its number, when one ended the program

    @property
    def is_ok(self) -> bool:
        return self.exit_code == 0


@dataclass(frozen=True, slots=True)
class SandboxFeatures:
    """What holds a program here; `doctor` and reports show it."""

    isolates: bool  # namespaces: files, network, processes, users
    seccomp: bool  # system calls are filtered too
    version: str = ""  # of bubblewrap


@runtime_checkable
class Sandbox(Protocol):
    """Runs programs that nobody has read. Any number at once; each alone, and gone when it ends.

    Cancelling `run` kills the program. `run` returns at the latest `seconds` + 5 after its start.
    """

    @property
    def features(self) -> SandboxFeatures: ...

    async def run(self, script: Script, limits: SandboxLimits) -> RunReport:
        """Raises SandboxError when the sandbox could not be set up."""
        ...
