"""Is a repository mended? Told by its functions' values in a fresh sandbox.

    changed(before, after)           what a patch holds: path -> text, None for a file that is gone
    patch_of(before, after)          the same as a unified diff
    await judge(sandbox, files, package, tests) -> Verdict

What is right is compared outside the sandbox: code inside cannot know it, nor say that it passed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolute.envs.code.compare import same
from evolute.envs.repair.repository import Test
from evolute.envs.sandbox.calls import call_all
from evolute.envs.sandbox.contract import Sandbox, SandboxLimits
from evolute.envs.sandbox.values import decode

LIMITS = SandboxLimits(seconds=10.0, cpu_seconds=10.0, max_output_bytes=2**18)
DRIVER = """
import importlib, os, sys
FILES = {files!r}
for path, text in FILES.items():
    os.makedirs("repository/" + os.path.dirname(path), exist_ok=True)
    with open("repository/" + path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
sys.path.insert(0, os.path.abspath("repository"))
def f(module, name, xs):
    try:
        return ["value", getattr(importlib.import_module(module), name)(xs)]
    except Exception as error:
        return ["raised", type(error).__name__]
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Tests that failed before and pass now; tests that passed before and still do."""

    fixed: int
    num_failing: int
    kept: int
    num_passing: int

    @property
    def is_mended(self) -> bool:
        return self.fixed == self.num_failing and self.kept == self.num_passing


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    paths = sorted({*before, *after})
    return {path: after.get(path) for path in paths if before.get(path) != after.get(path)}


def patch_of(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Unified diff, as `git apply` takes it; empty when nothing changed."""
    parts: list[str] = []
    for path in changed(before, after):
        old, new = before.get(path), after.get(path)
        lines = difflib.unified_diff(
            (old or "").splitlines(keepends=True),
            (new or "").splitlines(keepends=True),
            "/dev/null" if old is None else f"a/{path}",
            "/dev/null" if new is None else f"b/{path}",
        )
        parts += [
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        ]
    return "".join(parts)


async def judge(
    sandbox: Sandbox, files: Mapping[str, str], package: str, tests: Sequence[Test]
) -> Verdict:
    """Raises SandboxError when the sandbox broke; whatever the files do is data."""
    source = DRIVER.replace("{files!r}", repr(dict(files)))
    inputs = [(f"{package}.{t.function.module}", t.function.name, list(t.xs)) for t in tests]
    reports = await call_all(sandbox, source, "f", inputs, LIMITS)
    passed = []
    for test, report in zip(tests, reports):
        value = decode(report.value) if report.state == "ok" else None
        passed.append(
            isinstance(value, list) and value[:1] == ["value"] and same(test.expected, value[1])
        )
    failing = [ok for test, ok in zip(tests, passed) if test.shows_bug]
    passing = [ok for test, ok in zip(tests, passed) if not test.shows_bug]
    return Verdict(sum(failing), len(failing), sum(passing), len(passing))
