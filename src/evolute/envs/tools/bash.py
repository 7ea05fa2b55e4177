"""How does an agent run commands? By bash in its session's sandbox, one process a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.envs.sandbox.contract import Ending
from evolute.envs.sandbox.session import FOLDER, CommandReport, Session, shell
from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text, whole
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.shown import MAX_CHARS, cut
from evolute.types import ToolError

SCHEMA = function_schema(
    "bash",
    f"Run a command line in bash. It starts in {FOLDER}, or where the last one ended (cd stays; "
    "variables do not). Nothing runs on after it: no background processes. There is no network.",
    {
        "command": text("the command line, also of several lines"),
        "timeout": whole("seconds it may take, optional"),
    },
    ["command"],
)


class Bash:
    """The working directory stays from call to call; processes end with their call."""

    def __init__(self, session: Session, *, seconds: float = 20.0, most: int = MAX_CHARS) -> None:
        self._session, self._seconds, self._most = session, seconds, most
        self._folder = FOLDER

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        given = read_arguments(SCHEMA, arguments)
        if not given["command"].strip():
            raise ToolError("command is empty; write what bash is to run, e.g. `ls`.")
        most = min(self._seconds, context.timeout_s)
        asked = given.get("timeout", most)
        if asked <= 0:
            raise ToolError(f"timeout is {asked}; it must be at least 1 second, at most {most:g}.")
        report = await self._session.run(
            shell(given["command"], self._folder, seconds=min(asked, most))
        )
        self._folder = report.folder or self._folder
        return ToolResult(said(report, self._most), metrics={"failed": float(not report.is_ok)})


def said(report: CommandReport, most: int = MAX_CHARS) -> str:
    """What a program wrote, and how it ended where that was not well."""
    out = "\n".join(part.rstrip("\n") for part in (report.stdout, report.stderr) if part.strip())
    parts = [cut(out, most)] if out else []
    if report.ending is Ending.TIMEOUT:
        parts.append(
            f"[stopped: it was not done after {report.seconds:.0f} s. Run something shorter.]"
        )
    elif report.ending is Ending.OUTPUT:
        parts.append(f"[stopped: it wrote more than {report.num_bytes >> 20} MB. Print less.]")
    elif report.ending is Ending.MEMORY:
        parts.append("[ended: it ran out of memory.]")
    elif report.ending is Ending.SIGNAL:
        parts.append(f"[ended by signal {report.signal}]")
    elif report.exit_code:
        parts.append(f"[exit code {report.exit_code}]")
    return "\n".join(parts) or "[no output, exit code 0]"
