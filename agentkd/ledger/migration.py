"""Bring a ledger to the present schema: numbered steps, all of them in one transaction.

A step is frozen once released: it speaks plain SQL and never uses `tables.py`, which moves on.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger.database import Database
from agentkd.ledger.tables import SCHEMA_VERSION, ledger_meta, metadata

__all__ = ["MIGRATIONS", "prepare", "version_of"]

Migration = Callable[[sa.Connection], None]


def _to_2(connection: sa.Connection) -> None:
    """Remember how far each index is, and which checkpoint an evaluation judged."""
    run = connection.exec_driver_sql
    run(
        "CREATE TABLE index_marks (name VARCHAR NOT NULL, seq INTEGER NOT NULL, "
        f"moved_at {_time(connection)} NOT NULL, PRIMARY KEY (name))"
    )
    run("ALTER TABLE evaluations ADD COLUMN checkpoint VARCHAR DEFAULT '' NOT NULL")
    run("CREATE INDEX ix_evaluations_checkpoint ON evaluations (checkpoint)")
    for id_, body in run("SELECT id, body FROM evaluations").all():
        connection.execute(
            sa.text("UPDATE evaluations SET checkpoint = :checkpoint WHERE id = :id"),
            {"checkpoint": json.loads(body).get("checkpoint", ""), "id": id_},
        )


def _time(connection: sa.Connection) -> str:
    return "DATETIME" if connection.dialect.name == "sqlite" else "TIMESTAMP WITHOUT TIME ZONE"


MIGRATIONS: dict[int, Migration] = {2: _to_2}
"""Step by the version that it leads to."""


def prepare(database: Database) -> None:
    """Create the tables in an empty database or migrate an older one; raises StoreError for a newer one."""
    with database.read() as connection:
        found = version_of(connection)
    _refuse_newer(database, found)
    if found == SCHEMA_VERSION:
        return
    if database.read_only:
        raise StoreError(
            f"the ledger `{database.where}` has schema version {found}, this agentkd reads {SCHEMA_VERSION}",
            hint="open it once for writing: any agentkd command but a read-only one migrates it",
        )
    with database.write() as connection:
        found = version_of(connection)  # another process may have been faster
        _refuse_newer(database, found)
        if found == 0:
            metadata.create_all(connection, checkfirst=False)
        for version in range(max(found, 1) + 1, SCHEMA_VERSION + 1):
            if found:
                MIGRATIONS[version](connection)
        _stamp(connection, found)


def version_of(connection: sa.Connection) -> int:
    """Return the schema version; 0 for an empty database; raises StoreError for a foreign one."""
    names = set(sa.inspect(connection).get_table_names())
    if ledger_meta.name not in names:
        foreign = names if connection.dialect.name == "sqlite" else names & set(metadata.tables)
        if foreign:
            raise StoreError(
                f"the database holds tables of another program: `{'`, `'.join(sorted(foreign)[:3])}`",
                hint="name a path or a database of its own for the ledger",
            )
        return 0
    value = connection.execute(
        sa.select(ledger_meta.c.value).where(ledger_meta.c.key == "schema_version")
    ).scalar_one_or_none()
    if value is None or not value.isdigit():
        raise StoreError("the ledger does not say its schema version", hint="restore it from a backup")
    return int(value)


def _refuse_newer(database: Database, found: int) -> None:
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"the ledger `{database.where}` has schema version {found}, "
            f"this agentkd knows up to version {SCHEMA_VERSION}",
            hint="pip install --upgrade agentkd",
            found=found,
            known=SCHEMA_VERSION,
        )


def _stamp(connection: sa.Connection, found: int) -> None:
    row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
    if found:
        where = ledger_meta.c.key == row["key"]
        connection.execute(ledger_meta.update().where(where).values(value=row["value"]))
    else:
        connection.execute(ledger_meta.insert(), [row])
