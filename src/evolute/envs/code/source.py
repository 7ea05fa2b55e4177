"""Where in a model's answer is the program, and what of it is to be called?

code_of(text, starter)               the last code block; else the text, as the starter goes on
entry_point_of(source, given)        the name to call: given, last function, method of Solution
"""

from __future__ import annotations

import ast
import re

BLOCK = re.compile(
    r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL
)
PYTHON = ("", "python", "python3", "py")


def code_of(text: str, starter: str = "", *, completes: bool = False) -> str:
    """The program of an answer, as far as it can be told; "" when there is none.

    The last Python block counts, else the whole text when it is a program. With `completes`, a
    text that goes on where the starter ends is cut where something else than its function begins,
    and one that writes the function anew gets what stands before it in the starter.
    """
    blocks = [body for kind, body in BLOCK.findall(text) if kind.lower() in PYTHON]
    code = blocks[-1] if blocks else text
    if completes:
        start = _start_of_function(code, starter)
        if start is None:
            return starter + _until_dedent(code)
        code = starter[:start] + code  # imports and functions that an answer leaves out
    if not blocks and not _parses(code):
        return ""
    return code if code.endswith("\n") or not code else code + "\n"


def entry_point_of(source: str, given: str = "") -> str:
    """A name that `call_each` takes. Raises ValueError when the program defines nothing to call."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if given:
            return given
        raise ValueError("the program cannot be parsed, so it defines nothing to call.") from None
    functions = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    methods = _methods(body)
    if given in functions or (given and given not in methods):
        return given
    if given:
        return f"Solution.{given}"
    if functions:
        return functions[-1]
    if methods:
        return f"Solution.{methods[-1]}"
    raise ValueError("the program defines neither a function nor a class Solution with a method.")


# -- internals ---------------------------------------------------------------


def _methods(body: list[ast.stmt]) -> list[str]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == "Solution":
            names = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            return [name for name in names if not name.startswith("_")]
    return []


def _parses(code: str) -> bool:
    try:
        return bool(ast.parse(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _start_of_function(code: str, starter: str) -> int | None:
    """Where the starter's last function begins, when the text holds that function itself."""
    found = list(re.finditer(r"^def\s+(\w+)", starter, re.MULTILINE))
    if not found or not re.search(rf"^def\s+{found[-1][1]}\b", code, re.MULTILINE):
        return None
    return found[-1].start()


def _until_dedent(code: str) -> str:
    """Lines up to the first that begins at the margin, decorators and comments too."""
    kept: list[str] = []
    for line in code.split("\n"):
        if line[:1] not in ("", " ", "\t", "#", ")", "]", "}") and kept:
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"
