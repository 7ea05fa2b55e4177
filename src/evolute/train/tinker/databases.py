"""Where do the rows lie: in one SQLite file, or in a PostgreSQL database?

    database = connect("runs/service/service.db")
    database = connect("postgresql://host/name")
    database.execute(query, values) -> cursor    `?` stands for a value
    database.begin(), .commit(), .rollback(), .in_transaction
    database.type_of(int), .number, .version, .set_version(n)

Both are used by one service at a time, behind the store's lock. Errors are of `database.Error`.
"""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evolute.types import ConfigError

BUSY_S = 10.0
CONNECT_S = 10  # to a server
BACK_S = 15.0  # for a server that has gone away to come back
OURS = 0x45564F4C  # the advisory lock of a service: a second one on the same database is refused
SQLITE_TYPES: dict[object, str] = {int: "INTEGER", float: "REAL", bool: "INTEGER", bytes: "BLOB"}
POSTGRES_TYPES: dict[object, str] = {
    int: "BIGINT",
    float: "DOUBLE PRECISION",
    bool: "BIGINT",
    bytes: "BYTEA",
}
URLS = ("postgresql://", "postgres://")


@runtime_checkable
class Database(Protocol):
    """What the store needs."""

    Error: type[Exception]
    number: str  # the column that counts rows in their order

    @property
    def in_transaction(self) -> bool: ...
    @property
    def version(self) -> int: ...
    def set_version(self, version: int) -> None: ...
    def type_of(self, kind: object) -> str: ...
    def execute(self, query: str, values: Sequence[Any] = ()) -> Any: ...
    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


def connect(where: Path | str) -> Database:
    """Raises ConfigError when it cannot be used, or another service uses it."""
    if str(where).startswith(URLS):
        return Postgres(str(where))
    return Sqlite(where)


class Sqlite:
    """WAL with synchronous=NORMAL: what was answered survives the death of the process; a loss of
    power can cost the last moments, and leaves the file whole."""

    Error: type[Exception] = sqlite3.Error
    number = "number INTEGER PRIMARY KEY AUTOINCREMENT"

    def __init__(self, path: Path | str) -> None:
        try:
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            raise ConfigError(f"the database {path} cannot be used: {error}.") from error

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    @property
    def version(self) -> int:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(found)

    def set_version(self, version: int) -> None:
        self._db.execute(f"PRAGMA user_version = {version}")

    def type_of(self, kind: object) -> str:
        return SQLITE_TYPES.get(kind, "TEXT")

    def execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(query, values)

    def begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()


class Postgres:
    """One connection. When the server goes away it is sought again for BACK_S at the next
    transaction or look; a transaction that was cut fails, as nobody knows whether it counts."""

    number = "number BIGSERIAL PRIMARY KEY"

    def __init__(self, url: str) -> None:
        try:
            self._psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:
            raise ConfigError(
                f"train.database is PostgreSQL, but {error}. pip install evolute[postgres], or "
                "leave train.database empty for SQLite."
            ) from None
        self.Error: type[Exception] = self._psycopg.Error
        self._url, self._is_open = url, False
        try:
            self._db = self._connect()
        except self._psycopg.Error as error:
            text = f"the database {self._name()} cannot be used: {str(error).strip()}."
            raise ConfigError(text) from error

    @property
    def in_transaction(self) -> bool:
        return self._is_open

    @property
    def version(self) -> int:
        self.execute("CREATE TABLE IF NOT EXISTS evolute_service (version BIGINT NOT NULL)")
        (found,) = self.execute("SELECT MAX(version) FROM evolute_service").fetchone()
        return int(found or 0)

    def set_version(self, version: int) -> None:
        self.execute("INSERT INTO evolute_service (version) VALUES (?)", (version,))

    def type_of(self, kind: object) -> str:
        return POSTGRES_TYPES.get(kind, "TEXT")

    def execute(self, query: str, values: Sequence[Any] = ()) -> Any:
        if not self._is_open and self._db.closed:
            self._come_back()
        plain = [int(v) if isinstance(v, bool) else v for v in values]
        text = query.replace("?", "%s") if plain else query
        try:
            return self._db.execute(text, plain or None)
        except self._psycopg.OperationalError:
            if self._is_open or not self._db.closed or not query.startswith("SELECT"):
                raise
            self._come_back()
            return self._db.execute(text, plain or None)

    def begin(self) -> None:
        try:
            self.execute("BEGIN")
        except self._psycopg.OperationalError:
            if not self._db.closed:
                raise
            self._come_back()
            self._db.execute("BEGIN")
        self._is_open = True

    def commit(self) -> None:
        self._is_open = False
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """A connection that was lost has rolled back."""
        self._is_open = False
        with contextlib.suppress(self._psycopg.OperationalError):
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()

    # -- internals ---------------------------------------------------------------

    def _connect(self) -> Any:
        database = self._psycopg.connect(self._url, autocommit=True, connect_timeout=CONNECT_S)
        end = time.monotonic() + BUSY_S / 2  # who was killed just now may still hold it
        while not database.execute(f"SELECT pg_try_advisory_lock({OURS})").fetchone()[0]:
            if time.monotonic() > end:
                database.close()
                raise ConfigError(
                    f"another training service uses the database {self._name()}. Stop it, or give "
                    "each service a database of its own."
                )
            time.sleep(0.1)
        return database

    def _come_back(self) -> None:
        """Raises the last error when the server stays away."""
        end = time.monotonic() + BACK_S
        while True:
            try:
                self._db = self._connect()
            except self._psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return

    def _name(self) -> str:
        """Without its password."""
        return self._url.rpartition("@")[2].removeprefix(URLS[0]).removeprefix(URLS[1])
