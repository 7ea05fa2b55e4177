"""Questions to databases: generated, executed, compared."""

from evolute.envs.sql.execute import Database, QueryRefused, Rows
from evolute.envs.sql.rows import is_ordered, same_rows
from evolute.envs.sql.talk import sql_talk_task
from evolute.envs.sql.task import SqlTask, sql_task

__all__ = [
    "Database",
    "QueryRefused",
    "Rows",
    "SqlTask",
    "is_ordered",
    "same_rows",
    "sql_talk_task",
    "sql_task",
]
