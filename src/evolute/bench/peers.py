"""Sides of a comparison take turns, each in a process of its own.

    Side(command, environment, timeout_s)      a process that answers each line with a JSON object
    take_turns(names, rounds, turn)            A B C, C B A, ...: figures of each side by round
    comparison(name, taken, ratios) -> dict    medians, ranges and ratios, as JSON
    ratio_of(fast, slow)                       geometric mean of paired ratios, 95 % interval
    model_directory(folder)                    the embedded model as others read it, float32

A worker does one turn for each line that it reads, and prints its figures on one line. Its stderr
is kept, and an error shows the end of it.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from evolute.bench.result import BenchResult, summarize
from evolute.envs.tuning import interval
from evolute.models import export_model, load_model

Figures = dict[str, float]
MODEL = "smollm2-135m"


class Side:
    """A worker process. Used as a context: the process ends with it."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **environment},
        )
        self._left = b""

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe:
                pipe.close()

    def turn(self) -> Figures:
        """Figures of one turn. Raises RuntimeError when the process ends, or takes too long."""
        assert self._process.stdin
        try:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._told("ended")) from None
        found: Figures = json.loads(self._line())
        return found

    # -- internals ---------------------------------------------------------------

    def _line(self) -> bytes:
        assert self._process.stdout
        ends = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._left:
                if not selector.select(max(ends - time.monotonic(), 0)):
                    raise RuntimeError(self._told(f"gave nothing for {self._timeout_s:g} s"))
                read = os.read(self._process.stdout.fileno(), 65536)
                if not read:
                    raise RuntimeError(self._told("ended"))
                self._left += read
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _told(self, what: str) -> str:
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - 2000, 0))
        return f"a side {what}:\n{self._log.read().decode(errors='replace')}"


def take_turns(
    names: Sequence[str], rounds: int, turn: Callable[[str], Figures]
) -> dict[str, list[Figures]]:
    """Figures by side; every other round goes backwards. Each turn is told on stderr."""
    taken: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            taken[name].append(turn(name))
            told = ", ".join(f"{key} {value:.4g}" for key, value in taken[name][-1].items())
            print(f"round {number + 1} {name}: {told}", file=sys.stderr, flush=True)
    return taken


def comparison(
    name: str, taken: Mapping[str, Sequence[Figures]], ratios: Mapping[str, Figures]
) -> dict[str, Any]:
    """One JSON object: the machine, medians and ranges of each side, ratios."""
    rounds = len(next(iter(taken.values())))
    named = BenchResult(name, {}, {}, rounds, {})
    sums = {side: summarize(figures) for side, figures in taken.items()}
    sides = {side: {"figures": median, "spread": spread} for side, (median, spread) in sums.items()}
    head = {"machine": named.machine, "commit": named.commit, "n": rounds}
    return {**head, "sides": sides, "ratios": dict(ratios)}


def ratio_of(above: Sequence[float], below: Sequence[float]) -> Figures:
    """`above / below` of pairs of one round; the interval needs two rounds."""
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    found = {"mean": math.exp(sum(logs) / len(logs))}
    if len(logs) > 1:
        ends = interval(logs)
        found |= {"low": ends.low, "high": ends.high}
    return found


def model_directory(folder: Path) -> Path:
    """The embedded model in float32 as a Hugging Face directory."""
    return export_model(load_model(MODEL), folder / MODEL)
