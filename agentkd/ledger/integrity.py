"""Is a ledger whole? A quick look at every opening, and a reading of all that is in it.

SQLite finds damage to its pages, its indexes and its references. What it takes as it comes, a flipped bit in
a value, is found by the checksum of each body, and by columns that must say what the body says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger import tables as t
from agentkd.ledger.body import parse
from agentkd.ledger.database import Database
from agentkd.schema import Memory

__all__ = ["check_all", "look_at"]

QUICK_BYTES = 32 * 2**20
"""Ledgers up to this size are looked at whenever they are opened; larger ones after a crash."""
_SAID_TWICE: dict[sa.Table, tuple[str, ...]] = {
    t.trajectories: ("id", "attempt", "created_at"),
    t.corrections: ("id", "trajectory_id", "kind", "created_at"),
    t.memories: ("id", "kind", "privacy", "created_at"),
    t.datasets: ("id", "created_at"),
    t.checkpoints: ("name", "base_id", "dataset_id", "created_at"),
    t.evaluations: ("id", "created_at"),
    t.student_reports: ("id", "created_at"),
    t.cycles: ("id", "number"),
    t.phases: ("name", "key", "status"),
}
"""Columns that never differ from the body, also where a secret was taken out of it."""
_LEFT_OUT = {(t.memories, "privacy"): Memory.model_fields["privacy"].default}
"""What a body does not say where it is so: those of memories hold no defaults."""
_PLAIN: dict[type, tuple[type, ...]] = {
    str: (str,), int: (int,), float: (float, int), bool: (bool,), object: (datetime,)
}  # fmt: skip
_BODIES = {t.steps: "body", t.dataset_rows: "provenance"}
"""Further texts with a checksum."""


def look_at(database: Database) -> None:
    """Raise StoreError where pages of an SQLite file are damaged; a large one is read after a crash only."""
    file = Path(database.where)
    if not database.is_sqlite or not file.is_file():
        return
    log = Path(f"{file}-wal")
    if file.stat().st_size <= QUICK_BYTES or (log.is_file() and log.stat().st_size):
        with database.read() as connection:
            _ask(connection, "PRAGMA quick_check(1)", database.where)


def check_all(database: Database) -> None:
    """Read all of it; raises StoreError that says what is damaged."""
    with database.read() as connection:
        if database.is_sqlite:
            for statement in ("PRAGMA integrity_check(1)", "PRAGMA foreign_key_check"):
                _ask(connection, statement, database.where)
        for told in chain(_unreadable(connection), _damaged(connection)):
            raise _damage(database.where, told)


def _ask(connection: sa.Connection, statement: str, where: str) -> None:
    found = connection.exec_driver_sql(statement).first()
    if found is not None and found[0] != "ok":
        raise _damage(where, str(found[0]))


def _damage(where: str, told: str) -> StoreError:
    return StoreError(
        f"the ledger `{where}` is damaged: {told}",
        hint="`agentkd restore` puts a backup in its place; the index can be rebuilt from it",
        path=where,
    )


def _unreadable(connection: sa.Connection) -> Iterator[str]:
    """Yield the tables with a value that is not of its column's type."""
    for table in t.metadata.sorted_tables:
        try:
            for row in connection.execute(sa.select(table)):
                for column, value in zip(table.columns, row, strict=True):
                    if value is not None and not isinstance(value, _PLAIN[column.type.python_type]):
                        yield f"`{table.name}` holds {value!r} as `{column.name}`"
        except (ValueError, OverflowError) as error:
            yield f"a row of `{table.name}` cannot be read: {error}"


def _damaged(connection: sa.Connection) -> Iterator[str]:
    """Yield what cannot be read or contradicts itself."""
    for table, columns in _SAID_TWICE.items():
        keys = [column.name for column in table.primary_key]
        query = sa.select(*(table.c[name] for name in dict.fromkeys((*keys, *columns, "body"))))
        for row in connection.execute(query).mappings():
            where = f"`{' '.join(str(row[key]) for key in keys)}` in `{table.name}`"
            try:
                body = parse(row["body"])
            except StoreError as error:
                yield f"{where}: {error.message}"
                continue
            for name in columns:
                said = body.get(name, _LEFT_OUT.get((table, name)))
                if said is not None and not _equal(row[name], said):
                    yield f"{where} has `{name}` {row[name]!r} beside {said!r}"
    for table, column in _BODIES.items():
        for text in connection.execute(sa.select(table.c[column])).scalars():
            try:
                parse(text)
            except StoreError as error:
                yield f"a row of `{table.name}`: {error.message}"


def _equal(value: Any, said: Any) -> bool:
    if isinstance(value, datetime):
        try:
            at = datetime.fromisoformat(str(said))
        except ValueError:
            return False
        return value == (at if at.tzinfo else at.replace(tzinfo=UTC))
    return bool(value == said)
