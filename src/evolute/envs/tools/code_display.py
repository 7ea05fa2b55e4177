"""How much of what a search has found is shown, and what could be asked next?

complete(index, entity)     its code; of more than 200 lines the outline
preview(index, entity)      id and lines; code up to 50 lines, else the outline
folded(entities)            ids alone
snippet(index, path, line)  a few lines
places(lines)               where a text stands: lines of one file, counts of several
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evolute.envs.tools.code_index import MAX_FILES, CodeIndex, Entity
from evolute.envs.tools.shown import numbered

MAX_COMPLETE, MAX_PREVIEW = 200, 50  # lines
MAX_FOLDED, MAX_LINES, MAX_PLACES = 30, 20, 20
AROUND_HIT = 2


def complete(index: CodeIndex, entity: Entity) -> str:
    return _shown(index, entity, MAX_COMPLETE)


def preview(index: CodeIndex, entity: Entity) -> str:
    return _shown(index, entity, MAX_PREVIEW)


def folded(entities: Sequence[Entity]) -> str:
    rows = [f"- {entity.id} ({entity.kind})" for entity in entities[:MAX_FOLDED]]
    if len(entities) > MAX_FOLDED:
        rows.append(f"- and {len(entities) - MAX_FOLDED} more")
    rows.append(f"Next: search one of these ids, e.g. `{entities[0].id}`, for its code.")
    return "\n".join(rows)


def outlined(index: CodeIndex, path: str) -> str:
    """A file: its classes and functions."""
    entities = index.by_path[path]
    number = len(index.files[path].splitlines())
    if path in index.unread:
        return f"{path} ({number} lines) is no valid Python, so it has no outline. View it."
    if not entities:
        return f"{path} ({number} lines) has no classes or functions. View it with the editor."
    rows = [f"{path} ({number} lines):", *(_row(entity) for entity in entities)]
    return "\n".join([*rows, f"Next: search `{entities[0].id}` for its code."])


def snippet(index: CodeIndex, path: str, line: int, around: int = AROUND_HIT) -> str:
    lines = index.files[path].splitlines()
    first = max(1, line - around)
    return f"{path}:\n{numbered(lines[first - 1 : line + around], first)}"


def places(found: Mapping[str, Sequence[int]]) -> str:
    """One file: its lines. Several: how many in each."""
    if len(found) == 1:
        ((path, lines),) = found.items()
        shown = ", ".join(str(line) for line in lines[:MAX_LINES])
        more = f" and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
        first = max(1, lines[0] - 10)
        return (
            f"The text stands in {path} at lines {shown}{more}.\n"
            f"Next: view them with the editor, e.g. view_range [{first}, {lines[0] + 10}]."
        )
    rows = [f"- {path}: {len(lines)}" for path, lines in list(found.items())[:MAX_PLACES]]
    if len(found) > MAX_PLACES:
        reached = " or more" if len(found) >= MAX_FILES else ""
        head = (
            f"The text stands in {len(found)}{reached} files; the first {MAX_PLACES}, lines each:"
        )
    else:
        head = f"The text stands in {len(found)} files, lines each:"
    return "\n".join([head, *rows, "Next: name one of them in file_path_or_pattern."])


# -- internals ---------------------------------------------------------------


def _shown(index: CodeIndex, entity: Entity, most: int) -> str:
    head = f"{entity.id} ({entity.kind}, lines {entity.first}-{entity.last})"
    if entity.last - entity.first < most:
        lines = index.files[entity.path].splitlines()[entity.first - 1 : entity.last]
        return f"{head}\n{numbered(lines, entity.first)}"
    prefix = entity.name + "."
    parts = [e for e in index.by_path[entity.path] if e.name.startswith(prefix)]
    rows = [f"{head}: too long to show, its parts:", *(_row(part) for part in parts)]
    if parts:
        rows.append(f"Next: search `{parts[0].id}` for its code.")
    else:
        rows.append(f"Next: view lines with the editor, e.g. view_range [{entity.first}, "
                    f"{entity.first + most - 1}].")  # fmt: skip
    return "\n".join(rows)


def _row(entity: Entity) -> str:
    depth = "  " * entity.name.count(".")
    return f"{depth}- {entity.kind} {entity.name} (lines {entity.first}-{entity.last})"
