"""A database for one attempt: in memory, one table, closed to everything but reading and changing it.

The statements come from a model, so they may be hostile. An authorizer refuses files, other databases,
pragmas, extensions and changes of the schema; every statement has a ceiling of work, of rows and of bytes.
"""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from agentkd_llb.data import Cell, Table

__all__ = ["Answered", "Database", "render_rows"]

MAX_ROWS = 500
"""Rows that one statement may return."""
MAX_SHOWN_CHARS = 1500
"""Characters of a result that the model reads."""
MAX_SQL_CHARS = 8_000
"""Length of a statement."""
MAX_STEPS = 500_000
"""Instructions of SQLite's machine that one statement may take; published statements take under 3,000."""
MAX_SECONDS = 2.0
"""Wall time of one statement: for the few that are slow within the ceiling of work."""
MAX_VALUE_BYTES = 10_000
"""Size of one value or row while a statement works."""
MAX_PAGES = 2_000
"""Pages of 4 KB that the database may grow to."""

_EVERY = 1_000
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_NO_FUNCTIONS = frozenset({"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "sqlite_log"})


@dataclass(frozen=True)
class Answered:
    """What a statement did."""

    rows: tuple[tuple[Cell, ...], ...] = ()
    """Rows that it returned."""
    columns: tuple[str, ...] = ()
    """Names of their columns; empty for a statement that returns none."""
    error: str = ""
    """Why it failed; empty on success."""
    n_changed: int = 0
    """Rows that it inserted, updated or deleted."""
    is_change: bool = False
    """Whether it inserts, updates or deletes, even where that touched no row."""


class Database:
    """One table in memory; use from one thread at a time."""

    def __init__(self, table: Table) -> None:
        """Make the table and fill it, then close the database to anything else."""
        self._name = table.name
        self._is_change = False
        self._deadline = 0.0
        self._left = 0
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.text_factory = lambda data: data.decode("utf-8", "replace")
        columns = ", ".join(f"{_quoted(name)} {kind}" for name, kind in table.columns)
        self._connection.execute(f"CREATE TABLE {_quoted(table.name)} ({columns})")
        marks = ", ".join("?" * len(table.columns))
        self._connection.executemany(f"INSERT INTO {_quoted(table.name)} VALUES ({marks})", table.rows)
        aggregate: Any = _Deviation  # typeshed wants a step of fixed arguments
        for name in ("stddev", "std", "stddev_pop"):
            self._connection.create_aggregate(name, 1, aggregate)
        self._connection.execute(f"PRAGMA max_page_count={MAX_PAGES}")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 20)
        self._connection.set_authorizer(self._may)
        self._connection.set_progress_handler(self._is_over, _EVERY)

    def execute(self, sql: str) -> Answered:
        """Run one statement; an error is part of the answer."""
        if len(sql) > MAX_SQL_CHARS:
            return Answered(error=f"the statement is longer than {MAX_SQL_CHARS} characters")
        self._left = MAX_STEPS // _EVERY
        self._deadline = time.monotonic() + MAX_SECONDS
        self._is_change = False
        before = self._connection.total_changes
        try:
            cursor = self._connection.execute(sql)
            rows = cursor.fetchmany(MAX_ROWS + 1)
            columns = tuple(c[0] for c in cursor.description or ())
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return Answered(error=self._reason(error), is_change=self._is_change)
        if len(rows) > MAX_ROWS:
            return Answered(error=f"the statement returns more than {MAX_ROWS} rows")
        changed = self._connection.total_changes - before
        plain = tuple(tuple(_plain(cell) for cell in row) for row in rows)
        return Answered(plain, columns, n_changed=changed, is_change=self._is_change)

    def state(self) -> tuple[tuple[Cell, ...], ...]:
        """Return the table's rows, in no meaningful order; `MAX_PAGES` alone bounds the work."""
        self._left, self._deadline = sys.maxsize, math.inf
        rows = self._connection.execute(f"SELECT * FROM {_quoted(self._name)}").fetchall()
        return tuple(tuple(_plain(cell) for cell in row) for row in rows)

    def close(self) -> None:
        """Forget everything."""
        self._connection.close()

    def _may(
        self, action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
    ) -> int:
        """Allow reading, harmless functions, and changes of the one table's rows."""
        if action in _READS:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION:
            is_safe = (second or "").lower() not in _NO_FUNCTIONS
            return sqlite3.SQLITE_OK if is_safe else sqlite3.SQLITE_DENY
        if action in _CHANGES and first == self._name:
            self._is_change = True
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _is_over(self) -> bool:
        self._left -= 1
        return self._left < 0 or time.monotonic() > self._deadline

    def _reason(self, error: Exception) -> str:
        text = str(error)
        if "interrupted" in text:
            return "the statement takes too much work"
        if "not authorized" in text or "prohibited" in text:
            return "only SELECT, INSERT, UPDATE and DELETE on the task's table are allowed"
        return text


class _Deviation:
    """MySQL's STDDEV, which SQLite lacks: over the whole population, None of nothing."""

    def __init__(self) -> None:
        self._values: list[float] = []

    def step(self, value: object) -> None:
        if isinstance(value, (int, float)):
            self._values.append(value)

    def finalize(self) -> float | None:
        return statistics.pstdev(self._values) if self._values else None


def render_rows(answered: Answered) -> str:
    """Return a result as the model reads it: rows as JSON, cut after whole rows."""
    if answered.is_change:
        return f"{answered.n_changed} rows changed"
    lines: list[str] = []
    n_chars = 0
    for row in answered.rows:
        line = json.dumps(row, ensure_ascii=False)
        n_chars += len(line) + 2
        if lines and n_chars > MAX_SHOWN_CHARS:
            return f"[{', '.join(lines)}, ...] ({len(answered.rows)} rows)"
        lines.append(line)
    return f"[{', '.join(lines)}]"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _plain(cell: object) -> Cell:
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace")
    assert cell is None or isinstance(cell, (str, int, float))
    return cell
