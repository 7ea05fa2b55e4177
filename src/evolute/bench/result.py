"""What a bench found: one value, one JSON object.

BenchResult    settings, figures with their spread, and where and on what they were taken
summarize      figures of several rounds -> medians and ranges
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One bench: settings, figures (medians), number of repeats, spread, digest of the outputs."""

    name: str
    config: dict[str, Any]
    figures: dict[str, float]
    n: int
    spread: dict[str, tuple[float, float]]  # least and greatest of the repeats
    digest: str = ""  # of all output tokens; equal digests: the same answers
    notes: tuple[str, ...] = ()  # what a reader must know before believing the figures
    machine: dict[str, str] = field(default_factory=lambda: _machine())
    commit: str = field(default_factory=lambda: _commit())

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def summarize(
    rounds: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Medians, and (least, greatest), of figures that every round has."""
    names = list(rounds[0])
    median = {name: statistics.median(r[name] for r in rounds) for name in names}
    spread = {name: (min(r[name] for r in rounds), max(r[name] for r in rounds)) for name in names}
    return median, spread


def digest_of(outputs: Collection[tuple[str, Sequence[int]]]) -> str:
    """SHA-256 over (request id, output token ids), in the order of the ids."""
    pairs = sorted((name, list(ids)) for name, ids in outputs)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def one_digest(digests: Collection[str]) -> str:
    """The digest of all rounds; when they differ, a text that equals no other run's digest."""
    different = sorted(set(digests))
    if len(different) == 1:
        return different[0]
    return f"unstable: {' '.join(d[:16] for d in different)}"


def _machine() -> dict[str, str]:
    """Figures compare only on equal machines."""
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _commit() -> str:
    """Of the source tree that runs; '+' when it has changes; '' outside a repository."""
    here = Path(__file__)
    try:
        for command in (
            ["git", "ls-files", "--error-unmatch", here.name],  # another project's repository
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        ):
            done = subprocess.run(
                command, cwd=here.parent, capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
