"""What is kept? Thought templates with their vectors and outcomes, in one SQLite file.

    Buffer(path, embedder)
    await add(template, rule)     embed, then decide and insert in one transaction
    await nearest(text)           live templates, best first
    record(id, ok)                count an outcome; retires what keeps failing
    retire, restore, merge, replace, edit, export, load, rebuild

Each change is one transaction: a kill at any moment leaves the state before or after it, and any
number of processes may write. Vectors belong to an embedder, whose name is stored; opening with
another one is refused until `rebuild`. Without an embedder everything but add, nearest, edit of a
description, replace, load and rebuild works.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evolute.reasoning.thought_buffer.embedders import Embedder
from evolute.reasoning.thought_buffer.manager import Decision, should_retire
from evolute.reasoning.thought_buffer.retrieve import Index, Match, nearest
from evolute.reasoning.thought_buffer.store import Store
from evolute.reasoning.thought_buffer.template import ThoughtTemplate, from_json, to_json
from evolute.types import ConfigError

Rule = Callable[[ThoughtTemplate, Sequence[Match]], Decision]
EDITABLE = ("category", "description", "body")


def always(candidate: ThoughtTemplate, matches: Sequence[Match]) -> Decision:
    """The rule of people: everything is kept that is not there already."""
    return Decision(True, "added")


class Buffer:
    """Usable from several threads; close it, or use it in a `with` statement.

    Raises ConfigError for a file that is no thought buffer, is of a newer version, or holds vectors
    of another embedder; OutOfCapacity when another writer holds the file for over ten seconds.
    """

    def __init__(
        self,
        path: str | Path,
        embedder: Embedder | None = None,
        *,
        weight: float = 0.2,
        rebuilding: bool = False,
    ) -> None:
        self._embedder, self._weight = embedder, weight
        self._store = Store(path)
        self._index: tuple[int, Index] | None = None
        if embedder and not rebuilding:
            try:
                self._store.claim(embedder.name)
            except BaseException:
                self._store.close()
                raise

    def close(self) -> None:
        """Closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading -------------------------------------------------------------------

    def all(self, *, retired: bool = False) -> list[ThoughtTemplate]:
        """Live templates in the order of their adding; with `retired` the others too."""
        return [template for template, gone in self._store.rows() if retired or not gone]

    def get(self, id: str) -> ThoughtTemplate:
        """Live or retired, by id or its unambiguous beginning. Raises ConfigError."""
        found = [t for t, _ in self._store.rows() if t.id == id]
        found = found or [t for t, _ in self._store.rows() if id and t.id.startswith(id)]
        if len(found) != 1:
            many = "no thought template" if not found else f"{len(found)} thought templates"
            raise ConfigError(f"{many} with id {id!r}; `evolute thoughts list` shows them.")
        return found[0]

    def is_retired(self, id: str) -> bool:
        return any(gone for template, gone in self._store.rows() if template.id == id)

    async def nearest(
        self, text: str, *, category: str | None = None, limit: int = 8
    ) -> list[Match]:
        """Live templates whose description is like `text`, best first."""
        query = await self._embed([text])
        return nearest(query[0], self._live(), category=category, weight=self._weight, limit=limit)

    # -- writing -------------------------------------------------------------------

    async def add(self, template: ThoughtTemplate, rule: Rule = always) -> Decision:
        """Ask `rule` with the templates alike, and keep the template if it says so.

        One transaction: two writers with the same news do not both add it. A retired template with
        the same content is restored, its outcomes forgotten.
        """
        vector = (await self._embed([template.description]))[0]
        with self._store.change() as change:
            if change.is_live(template.id):
                return Decision(False, "known")
            decision = rule(template, nearest(vector, change.index(), weight=0.0))
            if decision.keep:
                change.put(template, vector)
        return decision

    def record(self, id: str, ok: bool) -> bool:
        """Count an outcome. True when it retired the template. Nothing for one that is gone."""
        with self._store.change() as change:
            stats = change.count(id, ok)
            is_due = stats is not None and should_retire(stats) and not change.is_retired(id)
            if is_due:
                change.set_retired(id, True)
            return is_due

    def retire(self, id: str) -> None:
        """Offer it no more; it stays in the file. Raises ConfigError for an unknown id."""
        known = self.get(id).id
        with self._store.change() as change:
            change.set_retired(known, True)

    def restore(self, id: str) -> None:
        known = self.get(id).id
        with self._store.change() as change:
            change.set_retired(known, False)

    def merge(self, into: str, other: str) -> None:
        """Give the outcomes of `other` to `into` and retire `other`."""
        kept, gone = self.get(into).id, self.get(other).id
        if kept == gone:
            raise ConfigError(f"thought template {kept} cannot be merged with itself.")
        with self._store.change() as change:
            change.move_stats(gone, kept)
            change.set_retired(gone, True)

    async def replace(self, id: str, template: ThoughtTemplate) -> None:
        """Put a better one in the place of `id`, which is retired. One transaction."""
        known = self.get(id).id
        vector = (await self._embed([template.description]))[0]
        with self._store.change() as change:
            change.set_retired(known, True)
            change.put(template, vector)

    async def edit(self, id: str, **changes: str) -> ThoughtTemplate:
        """Set category, description or body; the id stays, outcomes too. Raises ConfigError."""
        unknown = sorted(changes.keys() - set(EDITABLE))
        if unknown:
            raise ConfigError(f"cannot edit {unknown}; {', '.join(EDITABLE)} can be edited.")
        edited: ThoughtTemplate = replace(self.get(id), **changes)  # type: ignore[arg-type]
        vector = None
        if "description" in changes:
            vector = (await self._embed([edited.description]))[0]
        with self._store.change() as change:
            change.update(edited, vector)
        return edited

    # -- files ---------------------------------------------------------------------

    def export(self, path: str | Path) -> int:
        """All live templates as JSON lines; returns how many. The file appears whole or not."""
        templates = self.all()
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_text("".join(to_json(template) + "\n" for template in templates))
        part.replace(target)
        return len(templates)

    async def load(self, path: str | Path) -> tuple[int, int]:
        """Add the templates of an export: (added, known already). Outcomes come along.

        All lines are read and embedded before the first is added; a bad line adds nothing.
        """
        try:
            lines = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        templates = [from_json(line) for line in lines if line.strip()]
        vectors = await self._embed([template.description for template in templates])
        added = 0
        with self._store.change() as change:
            for template, vector in zip(templates, vectors):
                if not change.has(template.id):
                    change.put(template, vector)
                    added += 1
        return added, len(templates) - added

    async def rebuild(self) -> int:
        """Embed all descriptions anew, with this embedder; returns how many. Open with
        `rebuilding=True` when the file has another one's vectors."""
        assert self._embedder is not None, "rebuild needs an embedder"
        templates = self.all(retired=True)
        vectors = await self._embed([template.description for template in templates])
        with self._store.change() as change:
            change.set_embedder(self._embedder.name)
            for template, vector in zip(templates, vectors):
                change.update(template, vector)
        return len(templates)

    # -- internals ---------------------------------------------------------------

    def _live(self) -> Index:
        """The index as of the file's last change, whoever made it."""
        version = self._store.version()
        if self._index is None or self._index[0] != version:
            self._index = version, self._store.index()
        return self._index[1]

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._embedder is None:
            raise ConfigError("this needs an embedding model; open the buffer with one.")
        return await self._embedder.embed(texts)
