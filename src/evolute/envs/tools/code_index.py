"""Where in a repository is something? An index of its Python files.

    index = CodeIndex(); index.update({path: text}, {path: outline})
    index.entities(term, paths)    -> (entities, is_exact)       by id, name, part of a name
    index.lines(term, paths)       -> {path: [line numbers]}     where the text stands
    index.ranked(term, paths, k)   -> [(path, line)]             BM25 over whole files
    index.matching(pattern)        -> paths

Ids are `path.py:Class.method`. Names are looked up among files that are no tests; texts anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from evolute.envs.tools.code_outline import Row
from evolute.envs.tools.retrieval import Bm25, words

PREFIXES = {"class": ("class",), "def": ("function", "method"), "async def": ("function", "method"),
            "function": ("function", "method"), "method": ("method",)}  # fmt: skip
MAX_FILES = 22  # with a text in them, before the search for it stops
NUM_LIKE = 5


@dataclass(frozen=True, slots=True)
class Entity:
    """A class, function or method. Lines from 1, both ends included."""

    path: str
    kind: str
    name: str
    first: int
    last: int

    @property
    def id(self) -> str:
        return f"{self.path}:{self.name}"


@dataclass(slots=True)
class CodeIndex:
    """Invariant: entities are those of exactly the files held, as they were last told."""

    files: dict[str, str] = field(default_factory=dict)
    by_path: dict[str, list[Entity]] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)  # files that are no valid Python
    _ranking: tuple[list[str], Bm25] | None = None

    def update(
        self, texts: Mapping[str, str], outlines: Mapping[str, Sequence[Row] | None]
    ) -> None:
        """Files new or changed, with their outlines."""
        for path, text in texts.items():
            self.files[path] = text
            rows = outlines.get(path)
            self.unread.discard(path)
            if rows is None:
                self.unread.add(path)
            self.by_path[path] = [Entity(path, *row) for row in rows or ()]
            self._ranking = None

    def drop(self, paths: Collection[str]) -> None:
        """Files that are gone."""
        for path in paths:
            del self.files[path]
            del self.by_path[path]
            self.unread.discard(path)
            self._ranking = None

    def matching(self, pattern: str) -> list[str]:
        """Paths that a glob pattern, a file or a folder names."""
        pattern = pattern.strip().removeprefix("./").strip("/")
        expression = _expression(pattern)
        below = pattern + "/"
        return sorted(p for p in self.files if expression.fullmatch(p) or p.startswith(below))

    def by_id(self, term: str) -> Entity | None:
        path, _, name = term.partition(":")
        found = self.by_path.get(path, []) if name else []
        return next((entity for entity in found if entity.name == name), None)

    def entities(self, term: str, paths: Collection[str]) -> list[Entity]:
        """What a name means: exactly, then whatever the case, then its last part, then what has it
        in its id. Only in `paths` when any of these has it, else anywhere."""
        kinds, name = _without_prefix(term)
        everywhere = [p for p in self.files if not is_test(p)]
        for place in (set(paths), set(everywhere)):
            known = [
                e
                for path in sorted(place & self.by_path.keys())
                if not is_test(path)
                for e in self.by_path[path]
                if not kinds or e.kind in kinds
            ]
            found = _named(known, name)
            if found:
                return found
        return []

    def lines(self, term: str, paths: Sequence[str]) -> dict[str, list[int]]:
        """Line numbers by file, whatever the case: in `paths`, and if nothing there, anywhere."""
        wanted = term.lower()
        for place in (paths, sorted(self.files)):
            found: dict[str, list[int]] = {}
            for path in place:
                text = self.files[path]
                if wanted in text.lower():
                    found[path] = _places(text, wanted)
                if len(found) >= MAX_FILES:
                    break
            if found:
                return found
        return {}

    def ranked(self, term: str, paths: Collection[str], k: int) -> list[tuple[str, int]]:
        """Files that have words of the term, the best first, each with the first line that has."""
        if self._ranking is None:
            order = sorted(self.files)
            self._ranking = order, Bm25([self.files[path] for path in order])
        order, ranking = self._ranking
        best = [order[index] for index, _ in ranking.top(term, len(order))]
        chosen = [path for path in best if path in set(paths)] or best
        wanted = set(words(term))
        return [(path, _first_line(self.files[path], wanted)) for path in chosen[:k]]


def is_test(path: str) -> bool:
    *folders, name = path.split("/")
    in_tests = any(folder in ("test", "tests", "testing") for folder in folders)
    return (
        in_tests or name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"
    )


# -- internals ---------------------------------------------------------------


def _without_prefix(term: str) -> tuple[tuple[str, ...], str]:
    """`class Foo(` -> classes called Foo. A name that only begins with such a word is a name."""
    head, blank, rest = term.strip().rpartition(" ")
    kinds = PREFIXES.get(head.strip().lower(), ()) if blank else ()
    name = rest if kinds else term.strip()
    return kinds, re.split(r"[(:]\s*$|\(.*\):?$", name)[0].strip()


def _named(known: Sequence[Entity], name: str) -> list[Entity]:
    path, _, dotted = name.rpartition(":")
    if path:
        known, name = [e for e in known if e.path == path or e.path.endswith("/" + path)], dotted
    if not name:
        return []
    last, low = name.rpartition(".")[2], name.lower()
    exact = [e for e in known if _ends_with(e.name, name)]
    any_case = [e for e in known if _ends_with(e.name.lower(), low)]
    by_last = [e for e in known if e.name.rpartition(".")[2] == last]
    by_last_any = [e for e in known if e.name.lower().rpartition(".")[2] == last.lower()]
    return (
        exact
        or any_case
        or by_last
        or by_last_any
        or [entity for entity in known if low in entity.id.lower()][:NUM_LIKE]
    )


def _ends_with(dotted: str, name: str) -> bool:
    return dotted == name or dotted.endswith("." + name)


def _places(text: str, wanted: str) -> list[int]:
    """Lines where the text begins; it may span several."""
    lowered, place = text.lower(), -1
    found: list[int] = []
    while (place := lowered.find(wanted, place + 1)) >= 0:
        line = lowered.count("\n", 0, place) + 1
        if not found or found[-1] != line:
            found.append(line)
        if "\n" not in wanted:  # on to the next line: one that has it twice counts once
            place = lowered.find("\n", place)
            if place < 0:
                break
    return found


def _first_line(text: str, wanted: set[str]) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if wanted & set(words(line)):
            return number
    return 1


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    """`**/` is any number of folders, `*` and `?` stay within one name."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meanings.get(part, re.escape(part)) for part in parts))
