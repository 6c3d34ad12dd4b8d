"""One SQL database behind the ledger: connections, transactions, portable upserts, errors in our words.

SQLite runs in WAL mode with `synchronous=FULL`: a committed fact survives a power cut. There is one
writer at a time on every database: SQLite through `BEGIN IMMEDIATE`, PostgreSQL through an advisory
lock of the transaction, so that event numbers are seen in the order in which they were given.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import QueuePool, StaticPool

from agentkd.errors import AgentkdError, DataError, LockedError, MissingExtraError, NotFoundError, StoreError

__all__ = ["CHUNK", "Database", "chunks", "insert_many", "insert_once", "known", "upsert"]

BUSY_SECONDS = 30.0
CACHE_KIB = 32 * 1024  # pages that a connection keeps: ids are hashes, so rows go all over the tree
CHECKPOINT_PAGES = 8000  # of the log, 32 MB: a page that several commits change is moved to the file once
WRITER_LOCK = 0x61676B64  # "agkd": the advisory lock of the one writer on PostgreSQL
CHUNK = 500  # ids in one IN (...) list; SQLite allows 32766 variables, older builds 999

T = TypeVar("T")
Adapt = Callable[[Any], Any] | None

_TROUBLE = (
    ("disk is full", "free some space and run the same command again; nothing was half-written"),
    ("could not extend file", "free some space on the database server; nothing was half-written"),
    ("no space left", "free some space and run the same command again; nothing was half-written"),
    ("disk i/o error", "check the disk: its free space, its mount; nothing was half-written"),
    ("readonly database", "the file or its folder is not writable; open it read-only or fix the permissions"),
    ("read-only transaction", "this ledger was opened read-only"),
    ("unable to open", "check that the path exists and that you may read and write its folder"),
    ("malformed", "the file is damaged: restore `ledger.db` from a backup, the index can be rebuilt from it"),
    ("not a database", "the file is no SQLite database: move it away or name another path"),
)


class Database:
    """Hands out read and write transactions; safe to use from several threads."""

    def __init__(self, engine: sa.Engine, where: str, *, read_only: bool = False) -> None:
        self.engine = engine
        self.where = where
        self.read_only = read_only
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writer = threading.RLock()
        self._shares_connection = isinstance(engine.pool, StaticPool)
        self._local = threading.local()
        self._fence: Callable[[sa.Connection], None] | None = None
        self._kept: tuple[int, sa.PoolProxiedConnection] | None = None
        self._keeper = threading.Lock()

    @classmethod
    def open(cls, url_or_path: str | Path, *, read_only: bool = False) -> Database:
        """Connect to a file (created with its folder when missing), `sqlite://` (memory) or a URL."""
        text = str(url_or_path)
        if text in ("sqlite://", ":memory:"):
            return cls(_memory_engine(), "memory", read_only=read_only)
        if "://" not in text or text.startswith("sqlite:///"):
            path = Path(text.removeprefix("sqlite:///")).expanduser().absolute()
            return cls(_file_engine(path, read_only=read_only), str(path), read_only=read_only)
        engine = _server_engine(text)
        return cls(engine, engine.url.render_as_string(hide_password=True), read_only=read_only)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction that sees one state of the database; joins a running write of this thread."""
        joined = getattr(self._local, "connection", None)
        if joined is not None:
            with self.translated():
                yield joined
            return
        with self._guard(self._shares_connection), self.translated(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    def glance(self, statement: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Return the rows of one SELECT whose values are marked `?`: what every recall asks.

        An SQLite file answers on a connection that is kept for it, without a transaction's set-up: ten
        times as fast as `read`, and as new, since one statement sees one state of the database.
        """
        joined = getattr(self._local, "connection", None)
        if joined is None and self.is_sqlite and not self._shares_connection:
            with self._keeper:
                try:
                    cursor = self._kept_connection().cursor()
                    cursor.execute(statement, values)
                    return cursor.fetchall()
                except sqlite3.Error as error:
                    raise self.trouble(sa.exc.DBAPIError(statement, values, error)) from error
        with self.read() as connection:
            marked = statement if self.is_sqlite else statement.replace("?", "%s")
            return connection.exec_driver_sql(marked, values).fetchall()

    def _kept_connection(self) -> sa.PoolProxiedConnection:
        """Return the connection of `glance`; a forked child opens its own."""
        if self._kept is None or self._kept[0] != os.getpid():
            with self.translated():
                self._kept = os.getpid(), self.engine.raw_connection()
        return self._kept[1]

    @contextmanager
    def write(self, *, lasting: bool = True) -> Iterator[sa.Connection]:
        """Open a write transaction: all of it is stored, or none; joins a running one of this thread.

        `lasting=False` is for what a resumed run would write again: it survives the death of the
        process, and a power cut only together with the next lasting commit.
        """
        joined = getattr(self._local, "connection", None)
        if joined is not None:
            with self.translated(), joined.begin_nested():  # a caught error undoes this fact alone
                yield joined
            return
        if self.read_only:
            raise StoreError(
                f"the ledger `{self.where}` was opened read-only", hint="open it without read_only to write"
            )
        with self._guard(True), self.translated(), self.engine.connect() as connection:
            connection = connection.execution_options(agentkd_write="FULL" if lasting else "NORMAL")
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITER_LOCK)))
                if self._fence is not None:
                    self._fence(connection)
                self._local.connection = connection
                try:
                    yield connection
                finally:
                    self._local.connection = None

    @contextmanager
    def fenced(self, check: Callable[[sa.Connection], None]) -> Iterator[None]:
        """Let every write transaction of all threads begin with a check that may refuse it."""
        before, self._fence = self._fence, check
        try:
            yield
        finally:
            self._fence = before

    @contextmanager
    def _guard(self, locked: bool) -> Iterator[None]:
        """Queue the threads of this process fairly instead of letting them poll SQLite's lock."""
        if not locked:
            yield
            return
        with self._writer:
            yield

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn errors of the database into StoreError, LockedError or DataError with a hint."""
        try:
            yield
        except sa.exc.IntegrityError as error:
            raise _contradiction(error, self.where) from error
        except sa.exc.DBAPIError as error:
            raise self.trouble(error) from error
        except UnicodeDecodeError as error:  # sqlite3 quotes damaged text in its message and cannot read it
            raise StoreError(
                f"the ledger `{self.where}` is damaged: {error.reason}",
                hint="`agentkd restore` puts a backup in its place",
                path=self.where,
            ) from error

    def trouble(self, error: sa.exc.DBAPIError) -> AgentkdError:
        """Name what a database error means for the caller."""
        text = str(_first_trouble(error).orig).strip().partition("\n")[0]
        if "locked" in text or "lock timeout" in text:
            return LockedError(
                f"the ledger `{self.where}` is in use by another process: {text}",
                hint="wait for the other command to end, then run this one again",
                path=self.where,
            )
        hint = next((hint for sign, hint in _TROUBLE if sign in text.lower()), "is the database reachable?")
        return StoreError(f"the ledger `{self.where}` refused: {text}", hint=hint, path=self.where)

    def close(self) -> None:
        """Close all connections."""
        with self._keeper:
            kept, self._kept = self._kept, None
            if kept is not None and kept[0] == os.getpid():
                kept[1].invalidate()
        self.engine.dispose()


def _first_trouble(error: sa.exc.DBAPIError) -> sa.exc.DBAPIError:
    """Return the error behind a savepoint that is gone: SQLite drops all of them when its disk fails."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, sa.exc.DBAPIError) and "no such savepoint" not in str(before.orig):
            return before
        before = before.__context__
    return error


def _contradiction(error: sa.exc.IntegrityError, where: str) -> DataError:
    text = str(error.orig).strip().partition("\n")[0]
    if "foreign key" in text.lower():
        return DataError(
            f"a fact refers to something that the ledger `{where}` does not hold: {text}",
            hint="store trajectories, memories and datasets before what refers to them",
        )
    return DataError(f"a fact contradicts one that the ledger `{where}` holds: {text}")


def _file_engine(path: Path, *, read_only: bool) -> sa.Engine:
    if path.is_dir():
        raise StoreError(
            f"the ledger path `{path}` is a folder", hint="name a file, such as `ledger.db` in it"
        )
    if read_only and not path.exists():
        raise NotFoundError(f"there is no ledger at `{path}`", hint="check the path of the workspace")
    if not read_only:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder `{path.parent}`: {error.strerror}") from error
    address = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_size=8, max_overflow=64)
    return _prepared(engine, wal=not read_only)


def _memory_engine() -> sa.Engine:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    return _prepared(engine, wal=False)


def _prepared(engine: sa.Engine, *, wal: bool) -> sa.Engine:
    """Take transactions out of the driver's hands and set the pragmas of every new connection."""

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        if wal:
            _switch_to_wal(connection)
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def begun(connection: sa.Connection) -> None:
        synchronous = connection.get_execution_options().get("agentkd_write")
        if synchronous is not None:
            connection.exec_driver_sql(f"PRAGMA synchronous = {synchronous}")
            _begin_to_write(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begun)
    return engine


def _begin_to_write(connection: sa.Connection) -> None:
    """Take SQLite's write lock; ask often: its own handler soon asks ten times a second, and starves."""
    deadline = time.monotonic() + BUSY_SECONDS
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.001, 0.008))
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


def _switch_to_wal(connection: Any) -> None:
    """Set WAL mode; SQLite does not wait on its busy timeout for this one statement, so we do."""
    deadline = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return  # a file system without shared memory stays in its old mode: slower, still correct
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _server_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise StoreError(
            "the URL of the ledger cannot be read", hint="use postgresql://user@host/database"
        ) from error
    if parsed.get_backend_name() != "postgresql":
        raise StoreError(
            f"the ledger cannot live in `{parsed.get_backend_name()}`",
            hint="use a path for SQLite or postgresql://user@host/database",
        )
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        return sa.create_engine(parsed, pool_size=8, max_overflow=64, pool_pre_ping=True)
    except ImportError as error:
        raise MissingExtraError.of("psycopg", "postgres", "a ledger on PostgreSQL") from error


def insert_once(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless its primary key is there, and return whether it is new."""
    statement = _insert(connection.dialect.name, table).on_conflict_do_nothing()
    return connection.execute(statement, dict(row)).rowcount > 0


def insert_many(connection: sa.Connection, table: sa.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows that name the same columns and skip those whose primary key is there."""
    batch = list(rows)
    if not batch:
        return
    if connection.dialect.name != "sqlite":
        connection.execute(_insert(connection.dialect.name, table).on_conflict_do_nothing(), batch)
        return
    statement, columns = _rows_for_sqlite(table, frozenset(batch[0]))
    values = [_adapted(adapt, [row[name] for row in batch]) for name, adapt in columns]
    connection.exec_driver_sql(statement, list(zip(*values, strict=True)))


def _adapted(adapt: Adapt, values: list[Any]) -> list[Any]:
    """Return storable values; what all rows share, such as the time of a batch, is adapted once."""
    if adapt is not None and all(value is values[0] for value in values):
        return [adapt(values[0])] * len(values)
    return values if adapt is None else [adapt(value) for value in values]


@cache
def _rows_for_sqlite(table: sa.Table, names: Collection[str]) -> tuple[str, list[tuple[str, Adapt]]]:
    """Return an insertion for the driver itself, and by column what makes its values storable.

    SQLAlchemy prepares the parameters of every row anew, which costs more than SQLite's own work.
    """
    missing = [c.name for c in table.c if c.default is not None and c.name not in names]
    if missing:
        raise ValueError(f"rows of `{table.name}` must name `{missing[0]}`")  # defaults are not filled in
    columns = [c for c in table.c if c.name in names]
    dialect = sqlite.dialect()
    made = sqlite.insert(table).on_conflict_do_nothing()
    compiled = made.compile(dialect=dialect, column_keys=[c.name for c in columns])
    return str(compiled), [(c.name, c.type.dialect_impl(dialect).bind_processor(dialect)) for c in columns]


def upsert(
    connection: sa.Connection, table: sa.Table, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows or replace those with the same primary key."""
    batch = [dict(rows)] if isinstance(rows, Mapping) else [dict(row) for row in rows]
    if not batch:
        return
    connection.execute(_upsert(connection.dialect.name, table, tuple(batch[0])), batch)


@cache
def _upsert(dialect: str, table: sa.Table, columns: tuple[str, ...]) -> sqlite.Insert | postgresql.Insert:
    statement = _insert(dialect, table)
    key = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in columns if name not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=changed)


def _insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Cut a collection into lists that fit into one `IN (...)`."""
    batch = list(items)
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


def known(connection: sa.Connection, column: sa.Column[str], ids: Iterable[str]) -> set[str]:
    """Return those ids that the column holds."""
    found: set[str] = set()
    for batch in chunks(dict.fromkeys(ids)):
        found.update(connection.execute(sa.select(column).where(column.in_(batch))).scalars())
    return found
