"""How does an agent compute? By Python in its session's sandbox, a fresh process each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evolute.envs.sandbox.session import FOLDER, Command, Session
from evolute.envs.tools.arguments import Schema, function_schema, read_arguments, text
from evolute.envs.tools.bash import said
from evolute.envs.tools.contract import ToolContext, ToolResult
from evolute.envs.tools.shown import MAX_CHARS
from evolute.types import ToolError

SCHEMA = function_schema(
    "code_interpreter",
    "Run Python code and see what it prints; the value of a last expression is printed too. Each "
    f"call is a new process in {FOLDER}: files stay, variables do not. There is no network.",
    {"code": text("the Python code")},
    ["code"],
)
# Runs inside: the code comes by stdin, the value of a last expression is shown as a prompt would.
RUN = """
import ast, os, sys
source = sys.stdin.buffer.read().decode("utf-8", "replace")
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
sys.path.insert(0, os.getcwd())
names = {"__name__": "__main__", "exit": sys.exit, "quit": sys.exit}
def show(kind, error, trace):
    import traceback
    while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
        trace = trace.tb_next
    traceback.print_exception(kind, error, trace)
sys.excepthook = show
tree = ast.parse(source, "<code>")
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
exec(compile(tree, "<code>", "exec"), names)
if last is not None:
    value = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
    if value is not None:
        print(repr(value))
"""
PROGRAM = ("python3", "-s", "-S", "-B", "-c", RUN)


class CodeInterpreter:
    """Python, with the standard library."""

    def __init__(self, session: Session, *, seconds: float = 20.0, most: int = MAX_CHARS) -> None:
        self._session, self._seconds, self._most = session, seconds, most

    @property
    def schema(self) -> Schema:
        return SCHEMA

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        code = unfenced(read_arguments(SCHEMA, arguments)["code"])
        if not code.strip():
            raise ToolError("code is empty; write Python that prints what you want to know.")
        report = await self._session.run(
            Command(
                PROGRAM,
                stdin=code.encode("utf-8", "replace"),
                seconds=min(self._seconds, context.timeout_s),
                merges=True,
            )
        )
        told = said(report, self._most)
        if told.startswith("[no output"):
            told = "[no output: print what you want to know]"
        return ToolResult(told, metrics={"failed": float(not report.is_ok)})


def unfenced(code: str) -> str:
    """Code without the fence that models like to put around it."""
    lines = code.strip().splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1])
    return code
