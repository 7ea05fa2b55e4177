"""What does one program give for each of many inputs?

    await call_each(sandbox, source, entry_point, inputs, limits) -> list[CallReport]
    await call_all(...)        the same in one process, up to the first call without a value

One sandbox holds the program and all inputs. `call_each` runs the program anew for each input in a
fork of its own, so that a call which hangs, dies or changes globals costs its own input only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evolute.envs.sandbox.contract import Ending, RunReport, Sandbox, SandboxLimits, Script
from evolute.envs.sandbox.values import encode

State = Literal["ok", "raised", "timeout", "died"]
PLACE = Path(__file__).parent
HARNESS_S = 2.0  # for the harness itself, and for each call to start and to be cleared away
CALL_S = 0.5
SPARE_PROCESSES = 1  # the harness


@dataclass(frozen=True, slots=True)
class CallReport:
    """`value` is canonical text (`values.py`) when the state is "ok"; else `error` says why not."""

    state: State
    value: str = ""
    error: str = ""
    seconds: float = 0.0


async def call_each(
    sandbox: Sandbox,
    source: str,
    entry_point: str,
    inputs: Sequence[Sequence[Any]],
    limits: SandboxLimits,
) -> list[CallReport]:
    """One report an input, in their order.

    `entry_point` names a function of the program, or "Class.method" (the class is made without
    arguments); each input is its arguments. An empty entry point runs the whole program: the one
    argument is the text of its stdin, the value what it prints. `limits` hold for each call; a
    value may have `max_output_bytes` characters. Raises ValueError for arguments without a
    canonical text, SandboxError when the sandbox broke.
    """
    return await _calls(sandbox, source, entry_point, inputs, limits, together=False)


async def call_all(
    sandbox: Sandbox,
    source: str,
    entry_point: str,
    inputs: Sequence[Sequence[Any]],
    limits: SandboxLimits,
) -> list[CallReport]:
    """As `call_each`, for graders that need all calls to be right: quicker by a fork each.

    The program is run once, what it changes stays from call to call, and `limits` hold for all
    calls together. After the first one without a value the rest is "died". Whole programs (no
    entry point) still run one by one.
    """
    return await _calls(sandbox, source, entry_point, inputs, limits, together=bool(entry_point))


# -- internals ---------------------------------------------------------------


async def _calls(
    sandbox: Sandbox,
    source: str,
    entry_point: str,
    inputs: Sequence[Sequence[Any]],
    limits: SandboxLimits,
    *,
    together: bool,
) -> list[CallReport]:
    if not inputs:
        return []
    told = {
        "isolates": sandbox.features.isolates,
        "together": together,
        "entry_point": entry_point,
        "inputs": [encode(list(one)) for one in inputs],
        "seconds": limits.seconds,
        "most": limits.max_output_bytes,
    }
    script = Script(
        (PLACE / "calls_inside.py").read_text(),
        files={
            "_values.py": (PLACE / "values.py").read_bytes(),
            "_program.py": source.encode("utf-8", errors="surrogatepass"),
            "_calls.json": json.dumps(told).encode(),
        },
    )
    run = await sandbox.run(script, _limits(limits, len(inputs), 1 if together else len(inputs)))
    return _read(run, len(inputs))


def _limits(limits: SandboxLimits, count: int, forks: int) -> SandboxLimits:
    """Of the whole: time and output for all calls, a process for the harness."""
    return replace(
        limits,
        seconds=HARNESS_S + forks * (limits.seconds + CALL_S),
        max_output_bytes=count * (2 * limits.max_output_bytes + 4096),
        max_processes=limits.max_processes + SPARE_PROCESSES,
    )


def _read(run: RunReport, count: int) -> list[CallReport]:
    reports: dict[int, CallReport] = {}
    for line in run.stdout.splitlines():
        try:
            index, state, seconds, said = json.loads(line)
        except ValueError:  # cut in the middle
            continue
        is_ok = state == "ok"
        reports[index] = CallReport(state, said if is_ok else "", "" if is_ok else said, seconds)
    missing: State = "timeout" if run.ending is Ending.TIMEOUT else "died"
    why = run.stderr.strip().rpartition("\n")[2] or f"the sandbox ended: {run.ending}"
    return [reports.get(index, CallReport(missing, error=why)) for index in range(count)]
