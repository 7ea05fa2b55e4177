"""What does the service remember? Rows in a database; every change is one transaction.

    Store(path)                            a file of SQLite, ":memory:" keeps nothing
    Store("postgresql://host/name")
    store.put(row), store.get(Model, id)   rows of `records`, whole
    store.change(Model, id, **columns)
    store.find(Future, "model_id = ? AND status = ?", ...) -> rows in order of arrival
    with store.transaction(): ...          several changes or none

Used from several threads.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from evolute.train.tinker.databases import connect
from evolute.train.tinker.records import Checkpoint, Future, Model, Sampler, Session
from evolute.types import CheckpointError, ConfigError

VERSION = 1
TABLES: dict[type, tuple[str, str]] = {  # record -> table, key
    Session: ("sessions", "id"),
    Model: ("models", "id"),
    Future: ("futures", "id"),
    Sampler: ("samplers", "id"),
    Checkpoint: ("checkpoints", "path"),
}
INDICES = (
    "CREATE INDEX futures_status ON futures (status, kind)",
    "CREATE INDEX futures_session ON futures (session_id, status)",
    "CREATE INDEX futures_model ON futures (model_id, status)",
    "CREATE INDEX models_session ON models (session_id)",
    "CREATE INDEX samplers_session ON samplers (session_id)",
    "CREATE INDEX checkpoints_model ON checkpoints (model_id)",
)
Row = TypeVar("Row", Session, Model, Future, Sampler, Checkpoint)


class Store:
    """Raises CheckpointError when the database fails."""

    def __init__(self, where: Path | str) -> None:
        self._lock = threading.RLock()
        self._db = connect(where)
        try:
            self._create()
        except BaseException as error:
            self._db.close()
            if isinstance(error, self._db.Error):
                raise ConfigError(f"the database cannot be used: {error}.") from error
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside, or none. One inside another is part of it."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._told(self._db.begin)
            try:
                yield
            except BaseException:
                self._db.rollback()
                raise
            self._told(self._db.commit)

    def put(self, row: Row) -> None:
        """A new row. Raises CheckpointError when its key is taken."""
        table, _ = TABLES[type(row)]
        names = [f.name for f in dataclasses.fields(row) if f.name != "number"]
        marks = ", ".join("?" * len(names))
        values = [_stored(getattr(row, name)) for name in names]
        with self.transaction():
            self._run(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", *values)

    def replace(self, row: Row) -> None:
        """A new row in the place of one with its key, if there is one."""
        table, key = TABLES[type(row)]
        with self.transaction():
            self._run(f"DELETE FROM {table} WHERE {key} = ?", getattr(row, key))
            self.put(row)

    def get(self, kind: type[Row], key: str) -> Row | None:
        table, column = TABLES[kind]
        found = self._rows(kind, f"SELECT * FROM {table} WHERE {column} = ?", key)
        return found[0] if found else None

    def find(self, kind: type[Row], where: str = "TRUE", *values: Any) -> list[Row]:
        """In order of arrival. `where` is SQL of ours, never of a request."""
        table, _ = TABLES[kind]
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY number"
        return self._rows(kind, query, *map(_stored, values))

    def page(
        self, kind: type[Row], limit: int, offset: int, where: str, *values: Any
    ) -> tuple[list[Row], int]:
        """The newest first, and how many there are in all."""
        table, _ = TABLES[kind]
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY number DESC LIMIT ? OFFSET ?"
        return self._rows(kind, query, *values, limit, offset), self.count(kind, where, *values)

    def count(self, kind: type[Row], where: str = "TRUE", *values: Any) -> int:
        table, _ = TABLES[kind]
        with self._lock:
            query = f"SELECT COUNT(*) FROM {table} WHERE {where}"
            (found,) = self._run(query, *map(_stored, values)).fetchone()
        return int(found)

    def last_batch(self) -> int:
        """The largest number of a batch that was noted."""
        with self._lock:
            (found,) = self._run("SELECT MAX(batch) FROM futures").fetchone()
        return int(found or 0)

    def change(self, kind: type[Row], key: str, **columns: Any) -> None:
        table, column = TABLES[kind]
        sets = ", ".join(f"{name} = ?" for name in columns)
        values = [_stored(value) for value in columns.values()]
        with self.transaction():
            self._run(f"UPDATE {table} SET {sets} WHERE {column} = ?", *values, key)

    def change_all(self, kind: type[Row], where: str, *values: Any, **columns: Any) -> int:
        """Of all rows that match; returns how many those were."""
        table, _ = TABLES[kind]
        sets = ", ".join(f"{name} = ?" for name in columns)
        given = [_stored(value) for value in (*columns.values(), *values)]
        with self.transaction():
            query = f"UPDATE {table} SET {sets} WHERE {where}"
            return int(self._run(query, *given).rowcount)

    def delete(self, kind: type[Row], where: str, *values: Any) -> int:
        table, _ = TABLES[kind]
        with self.transaction():
            query = f"DELETE FROM {table} WHERE {where}"
            return int(self._run(query, *map(_stored, values)).rowcount)

    # -- internals ---------------------------------------------------------------

    def _run(self, query: str, *values: Any) -> Any:
        return self._told(self._db.execute, query, values)

    def _told(self, act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except self._db.Error as error:
            raise CheckpointError(f"the service's database failed: {error}.") from error

    def _rows(self, kind: type[Row], query: str, *values: Any) -> list[Row]:
        with self._lock:
            cursor = self._run(query, *values)
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return [_loaded(kind, dict(zip(names, row))) for row in rows]

    def _create(self) -> None:
        version = self._db.version
        if version == VERSION:
            return
        if version:
            raise ConfigError(
                f"the database is of version {version}, and this Evolute writes {VERSION}; name "
                "another train.directory or train.database."
            )
        with self.transaction():
            for kind, (table, key) in TABLES.items():
                columns = [
                    f"{f.name} {self._type_of(kind, f.name)}{' UNIQUE NOT NULL' * (f.name == key)}"
                    for f in dataclasses.fields(kind)
                    if f.name != "number"
                ]
                fields = ", ".join((self._db.number, *columns))
                self._run(f"CREATE TABLE {table} ({fields})")
            for index in INDICES:
                self._run(index)
            self._db.set_version(VERSION)

    def _type_of(self, kind: type, name: str) -> str:
        hint = _hints(kind)[name]
        inner = [t for t in typing.get_args(hint) if t is not type(None)]
        is_optional = type(None) in typing.get_args(hint)
        return self._db.type_of(inner[0] if is_optional else hint)


HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in HINTS:
        HINTS[kind] = typing.get_type_hints(kind)
    return HINTS[kind]


def _stored(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict | tuple | list):
        return json.dumps(value)
    return value


def _loaded(kind: type[Row], values: dict[str, Any]) -> Row:
    hints = _hints(kind)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value, hint = values[field.name], hints[field.name]
        origin = typing.get_origin(hint)
        if origin is tuple:
            value = tuple(json.loads(value))
        elif origin is dict:
            value = json.loads(value)
        elif hint is bool:
            value = bool(value)
        elif isinstance(hint, type) and issubclass(hint, Enum):
            value = hint(value)
        found[field.name] = value
    return kind(**found)
