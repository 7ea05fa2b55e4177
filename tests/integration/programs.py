"""Programs of others that tests run, wherever they are installed.

    needs("guidellm")               a mark that skips a test where the program is not on the PATH
    run("guidellm", "run", ...)     its output; fails when it does

They have requirements of their own, so each is best kept in an environment of its own whose `bin`
is put on the PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def find(name: str) -> str | None:
    """Beside this interpreter, else on the PATH."""
    here = str(Path(sys.executable).parent)
    return shutil.which(name, path=here) or shutil.which(name)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find(name) is None, reason=f"{name} is not on the PATH")


def run(name: str, *arguments: str, cwd: Path, timeout_s: float = 280, offline: bool = True) -> str:
    """What it writes. Caches go below `cwd`."""
    program = find(name)
    assert program is not None
    ran = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env={
            **os.environ,
            **(OFFLINE if offline else {}),
            "HF_HOME": str(cwd / "hf"),
            "COLUMNS": "200",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]
    return ran.stdout
