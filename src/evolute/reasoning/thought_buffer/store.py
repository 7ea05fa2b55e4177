"""How do thought templates lie in SQLite?

    Store(path)               one connection; `rows`, `index`, `version` read
    with store.change() as c  one transaction, BEGIN IMMEDIATE to COMMIT; an error rolls back

Write-ahead log, so that readers do not wait for writers; `user_version` is checked; foreign
files are refused. Vectors are little-endian float32. `counter` grows with each change, so a reader
knows without reading on that its index is still right.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evolute.reasoning.thought_buffer.retrieve import Index
from evolute.reasoning.thought_buffer.template import Slot, Stats, ThoughtTemplate
from evolute.types import ConfigError, OutOfCapacity

VERSION = 1
BUSY_S = 10.0
COLUMNS = "id, category, description, kind, slots, body, tests, provenance, success, failure"
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL)",
    "CREATE TABLE templates (position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, "
    "category TEXT NOT NULL, description TEXT NOT NULL, kind TEXT NOT NULL, slots TEXT NOT NULL, "
    "body TEXT NOT NULL, tests TEXT NOT NULL, provenance TEXT NOT NULL, success INTEGER NOT NULL, "
    "failure INTEGER NOT NULL, retired INTEGER NOT NULL DEFAULT 0, vector BLOB NOT NULL)",
    "INSERT INTO meta VALUES ('embedder', ''), ('counter', 0)",
    f"PRAGMA user_version = {VERSION}",
)


class Store:
    """Raises ConfigError for a file that is no thought buffer."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        try:
            self.connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise ConfigError(f"thought buffer {path} cannot be opened: {error}") from error
        try:
            with _said(self.path):
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute("PRAGMA synchronous = FULL")
                self._create()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self.connection.close()

    def version(self) -> int:
        """Another number after each change of the file, whoever made it."""
        with self._lock, _said(self.path):
            row = self.connection.execute("SELECT value FROM meta WHERE key = 'counter'").fetchone()
        return int(row[0])

    def rows(self) -> list[tuple[ThoughtTemplate, bool]]:
        """All templates in the order of their adding, with whether they are retired."""
        query = f"SELECT {COLUMNS}, retired FROM templates ORDER BY position"
        with self._lock, _said(self.path):
            found = self.connection.execute(query).fetchall()
        return [(_template(row[:-1]), bool(row[-1])) for row in found]

    def index(self) -> Index:
        """Of live templates."""
        query = (
            "SELECT id, vector, category, success, failure FROM templates "
            "WHERE NOT retired ORDER BY position"
        )
        with self._lock, _said(self.path):
            rows = self.connection.execute(query).fetchall()
        vectors = [np.frombuffer(row[1], "<f4") for row in rows]
        stacked = np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)
        stats = [Stats(row[3], row[4]) for row in rows]
        return Index([row[0] for row in rows], stacked, [row[2] for row in rows], stats)

    def claim(self, embedder: str) -> None:
        """Note whose vectors these are. Raises ConfigError when they are another one's."""
        with self.change() as change:
            known = change.embedder()
            if known not in ("", embedder):
                raise ConfigError(
                    f"thought buffer {self.path} has vectors of {known}, {embedder} is asked for; "
                    f"use {known}, or `evolute thoughts rebuild` to embed everything anew."
                )
            if not known:
                change.set_embedder(embedder)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """All of it or nothing."""
        with self._lock, _said(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield Change(self)
                self.connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'counter'")
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    # -- internals ---------------------------------------------------------------

    def _create(self) -> None:
        """Within one transaction: two processes that begin at once make one table."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            found = self.connection.execute("PRAGMA user_version").fetchone()[0]
            tables = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if found > VERSION or (found == 0 and tables):
                raise ConfigError(
                    f"{self.path} is no thought buffer of version {VERSION} (it says {found}); "
                    "update Evolute, or name another file."
                )
            for statement in SCHEMA if found == 0 else ():
                self.connection.execute(statement)
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise


class Change:
    """What may be done within one transaction."""

    def __init__(self, store: Store) -> None:
        self._store, self._do = store, store.connection.execute

    def index(self) -> Index:
        return self._store.index()

    def has(self, id: str) -> bool:
        return self._do("SELECT 1 FROM templates WHERE id = ?", (id,)).fetchone() is not None

    def put(self, template: ThoughtTemplate, vector: NDArray[np.float32]) -> None:
        """Insert; one that is there (retired) takes the new content and lives again."""
        names = f"{COLUMNS}, vector"
        marks = ", ".join("?" * 11)
        self._do(
            f"INSERT INTO templates ({names}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET "
            "retired = 0, success = excluded.success, failure = excluded.failure, "
            "tests = excluded.tests, provenance = excluded.provenance, vector = excluded.vector",
            (*_values(template), _blob(vector)),
        )

    def update(self, template: ThoughtTemplate, vector: NDArray[np.float32] | None) -> None:
        """Category, description and body of a template, and its vector unless it is None."""
        self._do(
            "UPDATE templates SET category = ?, description = ?, body = ? WHERE id = ?",
            (template.category, template.description, template.body, template.id),
        )
        if vector is not None:
            values = (_blob(vector), template.id)
            self._do("UPDATE templates SET vector = ? WHERE id = ?", values)

    def count(self, id: str, ok: bool) -> Stats | None:
        """The outcomes with this one; None for an unknown id."""
        column = "success" if ok else "failure"
        self._do(f"UPDATE templates SET {column} = {column} + 1 WHERE id = ?", (id,))
        row = self._do("SELECT success, failure FROM templates WHERE id = ?", (id,)).fetchone()
        return Stats(*row) if row else None

    def move_stats(self, source: str, target: str) -> None:
        query = "SELECT success, failure FROM templates WHERE id = ?"
        success, failure = self._do(query, (source,)).fetchone()
        self._do(
            "UPDATE templates SET success = success + ?, failure = failure + ? WHERE id = ?",
            (success, failure, target),
        )
        self._do("UPDATE templates SET success = 0, failure = 0 WHERE id = ?", (source,))

    def is_live(self, id: str) -> bool:
        return self.has(id) and not self.is_retired(id)

    def is_retired(self, id: str) -> bool:
        row = self._do("SELECT retired FROM templates WHERE id = ?", (id,)).fetchone()
        return bool(row and row[0])

    def set_retired(self, id: str, gone: bool) -> None:
        self._do("UPDATE templates SET retired = ? WHERE id = ?", (int(gone), id))

    def embedder(self) -> str:
        return str(self._do("SELECT value FROM meta WHERE key = 'embedder'").fetchone()[0])

    def set_embedder(self, name: str) -> None:
        self._do("UPDATE meta SET value = ? WHERE key = 'embedder'", (name,))


# -- internals ---------------------------------------------------------------


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """SQLite's errors in our words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise OutOfCapacity(
                f"thought buffer {path} is held by another writer for over {BUSY_S:g} s; try again."
            ) from error
        raise ConfigError(f"thought buffer {path} cannot be used: {error}") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path} is no thought buffer: {error}") from error


def _template(row: Any) -> ThoughtTemplate:
    id, category, description, kind, slots, body, tests, provenance, success, failure = row
    return ThoughtTemplate(
        category,
        description,
        kind,
        body,
        tuple(Slot(**slot) for slot in json.loads(slots)),
        tuple(json.loads(tests)),
        json.loads(provenance),
        Stats(success, failure),
        id,
    )


def _values(template: ThoughtTemplate) -> tuple[Any, ...]:
    return (
        template.id,
        template.category,
        template.description,
        template.kind,
        json.dumps([asdict(slot) for slot in template.slots]),
        template.body,
        json.dumps(list(template.tests)),
        json.dumps(dict(template.provenance)),
        template.stats.success,
        template.stats.failure,
    )


def _blob(vector: NDArray[np.float32]) -> bytes:
    return vector.astype("<f4").tobytes()
