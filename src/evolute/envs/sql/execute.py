"""How is a query that nobody has read run? In memory, with what it may do and cost limited.

    Database(script, read_only=True).query(text) -> Rows       QueryRefused says why not
    await database.ask(text)                                   the same in a thread

One statement at a time. Other files, extensions and settings are out of reach whatever is asked; a
query ends after `seconds`, values have at most 100,000 characters, SQLite at most 512 MB in this
process (a limit of the library, so of all its connections here together).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import Any

from evolute.envs.blocking import run_blocking

MAX_VALUE, MAX_QUERY = 100_000, 20_000  # characters
MAX_HEAP = 512 * 2**20
STEPS = 2000  # of SQLite's machine between two looks at the clock
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
WRITING = {
    sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE, sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_CREATE_TEMP_TABLE, sqlite3.SQLITE_CREATE_TEMP_INDEX,
    sqlite3.SQLITE_CREATE_TEMP_VIEW, sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_VIEW, sqlite3.SQLITE_DROP_TEMP_TABLE, sqlite3.SQLITE_DROP_TEMP_INDEX,
    sqlite3.SQLITE_DROP_TEMP_VIEW, sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_SAVEPOINT,
}  # fmt: skip
FORBIDDEN = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "randomblob",
             "printf", "format"}  # fmt: skip  # the last two: one call may take seconds
PRAGMAS = {
    "table_info",
    "table_xinfo",
    "table_list",
    "foreign_key_list",
    "index_list",
    "index_info",
}


class QueryRefused(Exception):
    """A query that SQLite cannot or may not run; the text is for who wrote it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`is_cut`: there are more rows than were asked for."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    is_cut: bool = False


class Database:
    """A database in memory, made by a script of our own. Calls from any thread, one at a time."""

    def __init__(self, script: str, *, read_only: bool = True) -> None:
        self.script, self.read_only = script, read_only
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None, cached_statements=0
        )
        self._connection.executescript(script)
        self._connection.execute("PRAGMA temp_store = MEMORY")
        self._connection.execute(f"PRAGMA hard_heap_limit = {MAX_HEAP}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_QUERY)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.set_authorizer(self._may)

    def query(self, text: str, *, seconds: float = 5.0, max_rows: int = 1000) -> Rows:
        """Raises QueryRefused. Without `read_only` a statement may also write."""
        with self._lock:
            until = time.monotonic() + seconds
            self._connection.set_progress_handler(lambda: time.monotonic() > until, STEPS)
            try:
                cursor = self._connection.execute(text)
                rows = cursor.fetchmany(max_rows + 1)
                cursor.close()
            except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
                raise QueryRefused(_why(error, seconds, self.read_only)) from error
            except MemoryError as error:
                raise QueryRefused("the query needs more memory than it may have") from error
            finally:
                self._connection.set_progress_handler(None, 0)
        columns = tuple(str(one[0]) for one in cursor.description or ())
        return Rows(columns, tuple(map(tuple, rows[:max_rows])), len(rows) > max_rows)

    async def ask(self, text: str, *, seconds: float = 5.0, max_rows: int = 1000) -> Rows:
        def work() -> Rows:
            return self.query(text, seconds=seconds, max_rows=max_rows)

        found: Rows = await run_blocking(work, timeout_s=seconds + 30)
        return found

    def close(self) -> None:
        """Safe to call twice, and while a query runs: that one ends first."""
        with self._lock:
            self._connection.close()

    # -- internals ---------------------------------------------------------------

    def _may(
        self, action: int, first: str | None, second: str | None, _: str | None, __: str | None
    ) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            is_good = (second or "").lower() not in FORBIDDEN
        elif action == sqlite3.SQLITE_PRAGMA:
            is_good = (first or "").lower() in PRAGMAS
        else:
            is_good = action in READING or (action in WRITING and not self.read_only)
        return sqlite3.SQLITE_OK if is_good else sqlite3.SQLITE_DENY


def _why(error: Exception, seconds: float, read_only: bool) -> str:
    said = str(error)
    if said == "interrupted":
        return f"the query was not done after {seconds:g} s"
    if "function" in said:
        return said
    if "not authorized" in said or "prohibited" in said:
        kind = "only reading queries are" if read_only else "settings and other databases are not"
        return f"{said}: {kind} allowed"
    return said
