"""A copy of an SQLite ledger of one moment, made while others write to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.files import sync_file
from agentkd.ledger.database import Database
from agentkd.schema import now

__all__ = ["copy_database"]


def copy_database(database: Database, path: Path) -> datetime:
    """Write one moment of a database into a new file, and wait for the disk; writers need not wait for it.

    SQLite's backup API copies all pages within one read transaction. Raises StoreError for a server.
    """
    if not database.is_sqlite:
        raise StoreError(
            f"the ledger `{database.where}` is on a server", hint="back it up there, with `pg_dump`"
        )
    at = now()
    try:
        with database.translated(), closing(database.engine.raw_connection()) as source:
            with closing(sqlite3.connect(path)) as target:
                source.driver_connection.backup(target)  # type: ignore[union-attr]
                target.execute("PRAGMA journal_mode = DELETE")  # one file, with no log beside it
    except sqlite3.Error as error:
        raise database.trouble(sa.exc.DBAPIError("backup", None, error)) from error
    sync_file(path)
    return at
