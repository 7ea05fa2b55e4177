"""Writes docs/reference from the code: command line, settings, metrics, rooms.

    python docs/generate.py      (`make docs`)

Each page is a function that returns its text: cli(), settings(), metrics(), rooms(). The same code
gives the same text on every machine: no widths, colours or paths of the one it ran on.
`tests/test_docs.py` fails when a page is stale.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import tokenize
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "evolute"
PAGES = ("cli", "settings", "metrics", "rooms")
NOTE = "<!-- Written by `make docs` from the code; do not edit. -->\n\n"
WIDTH = 100
NATIVE = (".cpp", ".h", ".inc")
COMPLETION = ("install_completion", "show_completion")  # Typer's; they depend on the shell
DECLARES = ("counter", "gauge", "histogram")


def main() -> None:
    folder = ROOT / "docs" / "reference"
    folder.mkdir(exist_ok=True)
    for name, text in [(name, globals()[name]()) for name in PAGES]:
        (folder / f"{name}.md").write_text(NOTE + text)


# -- the command line ---------------------------------------------------------


def cli() -> str:
    """What `--help` says, verb by verb."""
    from evolute.cli.main import VERBS

    parts = ["# Command line\n\nResults go to stdout, progress and logs to stderr.\n"]
    parts += [f"| verb | does |\n|---|---|\n{_rows((f'`{v}`', line) for v, line in VERBS.items())}"]
    for verb in VERBS:
        for name, text in _help(verb):
            parts.append(f"## {name}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def _help(verb: str) -> Iterator[tuple[str, str]]:
    """(name, help text) of a verb and of its subcommands."""
    import typer

    command: Any = typer.main.get_command(importlib.import_module(f"evolute.cli.{verb}").app)
    yield from _help_of(command, f"evolute {verb}", None)


def _help_of(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    command.rich_markup_mode = None  # plain text instead of boxes as wide as the terminal
    command.params = [p for p in command.params if p.name not in COMPLETION]
    context = command.context_class(
        command,
        info_name=name if parent is None else name.rpartition(" ")[2],
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        color=False,
        help_option_names=["-h", "--help"],
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    yield name, text
    for sub, inner in getattr(command, "commands", {}).items():
        yield from _help_of(inner, f"{name} {sub}", context)


# -- settings -----------------------------------------------------------------


def settings() -> str:
    """Every setting of the main job with its default and the comment beside its field."""
    from evolute.agents.run import AgentsConfig
    from evolute.agents.simulation import SimulationConfig
    from evolute.cli.main_job import LoopConfig
    from evolute.train.sft import SftConfig
    from evolute.train.tinker import ServiceConfig

    head = """# Settings

In TOML files (`--config FILE`, a recipe) or one by one (`--set train.task=addition-3`). Unknown
names are refused with the nearest known one; `evolute loop --print-config` shows what is in force.

Names and defaults are those of `evolute loop`. A recipe of `evolute train rl` holds the settings of
`train` without that word, one of `evolute train sft` those of `sft`, one of `evolute agents run` those of `agents`, and a file of `evolute simulate` with kind = "dispatch" those of `dispatch`; `evolute serve`, `evolute eval` and `evolute bench` take those of
`engine` without that word, and `evolute serve --train` those of `service` with `train` in that word's place. Where a default is another one there, the table says "alone".
"""
    parts = [*_sections(LoopConfig(), ""), *_sections(SftConfig(), "sft.")]
    parts += [*_sections(AgentsConfig(), "agents."), *_sections(SimulationConfig(), "dispatch.")]
    return "\n".join([head, *parts, *_sections(ServiceConfig(), "service.")])


def _sections(values: Any, path: str) -> Iterator[str]:
    cls = type(values)
    alone, notes, hints = cls(), _notes(cls), typing.get_type_hints(cls)
    rows, inner = [], []
    for field in dataclasses.fields(cls):
        value = getattr(values, field.name)
        if dataclasses.is_dataclass(value):
            inner += _sections(value, f"{path}{field.name}.")
            continue
        own = getattr(alone, field.name)
        default = _plain(value) + ("" if own == value else f" (alone: {_plain(own)})")
        kind = _kind(hints[field.name])
        rows.append((f"`{path}{field.name}`", kind, default, notes[field.name]))
    title = f"`{path.rstrip('.')}`" if path else "At the top"
    doc = inspect.cleandoc(cls.__doc__ or "").replace("\n", " ")
    table = f"| setting | type | default | note |\n|---|---|---|---|\n{_rows(rows)}"
    yield f"## {title}\n\n{doc}\n\n{table}"
    yield from inner


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def _kind(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else _kind(a) for a in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(
        hint, str(hint)
    )


def _notes(cls: type) -> dict[str, str]:
    """The comment on the last line of each field's declaration; '' where there is none."""
    path = Path(inspect.getsourcefile(cls) or "")
    comments = _comments(path)
    (body,) = (
        n.body for n in _tree(path).body if isinstance(n, ast.ClassDef) and n.name == cls.__name__
    )
    fields = [n for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return {n.target.id: comments.get(n.end_lineno or 0, "") for n in fields}  # type: ignore[union-attr]


@cache
def _comments(path: Path) -> dict[int, str]:
    with path.open("rb") as file:
        tokens = tokenize.tokenize(file.readline)
        return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


# -- metrics ------------------------------------------------------------------


def metrics() -> str:
    """Every metric that a room declares."""
    from evolute.telemetry import declarations

    names = {name for module in declaring_modules() for name in _declared(module)}
    for module in declaring_modules():
        importlib.import_module(module)
    rows = [
        (f"`{d.name}`", d.kind, ", ".join(d.labels), d.text, _bounds(d.buckets))
        for d in declarations()
        if d.name in names
    ]
    return f"""# Metrics

What `/metrics` answers, by our own names; Prometheus sees `evolute_` and underscores for slashes,
and `_total` behind a counter. What each step of a run records is told in [train](../train.md).

| metric | kind | labels | what it says | bounds |
|---|---|---|---|---|
{_rows(rows)}"""


def declaring_modules() -> list[str]:
    """Modules that declare a metric, in order; the telemetry room only shows how."""
    found = []
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC.parent).with_suffix("").parts
        module = ".".join(parts)
        if parts[1] != "telemetry" and _declared(module):
            found.append(module)
    return found


@cache
def _declared(module: str) -> tuple[str, ...]:
    """Names that a module declares at its top level."""
    path = (SRC.parent / Path(*module.split("."))).with_suffix(".py")
    calls = (n.value for n in _tree(path).body if isinstance(n, ast.Assign | ast.AnnAssign))
    return tuple(
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in DECLARES
    )


def _bounds(buckets: tuple[float, ...]) -> str:
    return ", ".join(f"{bound:g}" for bound in buckets)


# -- rooms --------------------------------------------------------------------


def rooms() -> str:
    """Each room with its files, by what their first lines say."""
    head = "# Rooms\n\nWhat the first line of each file says. Imports point down; see"
    parts = [f"{head} [architecture](../architecture.md).\n"]
    for init in sorted(SRC.glob("*/__init__.py")):
        room = init.parent
        page = ROOT / "docs" / f"{room.name}.md"
        more = f"More: [{room.name}](../{page.name})." if page.exists() else ""
        about = " ".join(filter(None, (_first_sentence(init), more)))
        table = f"| file | what it is |\n|---|---|\n{_rows(_files(room))}"
        parts.append("\n\n".join(filter(None, (f"## {room.name}", about, table))))
    return "\n".join(parts)


def _files(room: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(room.rglob("*")):
        name = path.relative_to(room).as_posix()
        if path.suffix == ".py" and path.name != "__init__.py":
            yield f"`{name}`", _first_sentence(path)
        elif path.name == "__init__.py" and path.parent != room:
            yield f"`{path.parent.relative_to(room).as_posix()}/`", _first_sentence(path)
        elif path.suffix in NATIVE:
            yield f"`{name}`", _first_comment(path)


def _first_sentence(path: Path) -> str:
    doc = inspect.cleandoc(ast.get_docstring(_tree(path)) or "").partition("\n\n")[0]
    text = " ".join(doc.split())
    return re.split(r"(?<=[.?!]) (?=[A-Z])", text)[0]


def _first_comment(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("//"):
            break
        lines.append(line.lstrip("/ ").strip())
    return re.split(r"(?<=[.?!]) (?=[A-Z])", " ".join(lines))[0]


# -- all ----------------------------------------------------------------------


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _rows(rows: Any) -> str:
    """Lines of a table; a bar in a cell would end it."""
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)
    return "".join(lines)


if __name__ == "__main__":
    main()
