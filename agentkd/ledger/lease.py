"""Leases: who may do a piece of work alone, with an epoch that fences off an owner who was thought dead.

A lease is one row, taken by compare-and-set in one transaction. Its holder renews it in the background, and
every write of the holder's ledger checks in the same transaction that nobody took it over meanwhile: a
process that was stopped, or cut off from the server, wakes up to an error and not to a second promotion.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

from agentkd.errors import LockedError, StoreError
from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, upsert
from agentkd.schema import Value, now

__all__ = ["Hold", "Lease", "Leases"]

_BEATS = 4  # renewals in the time after which a lease lapses


class Lease(Value):
    """Who holds a piece of work, and for how long nobody else may take it."""

    name: str
    """The work, such as `cycle`."""
    owner: str
    """Process and machine, in words."""
    epoch: int
    """Counts the owners: each is one higher than the one before."""
    taken_at: datetime
    """When it was taken (UTC, by the database's clock)."""
    expires_at: datetime
    """When it lapses unless it is renewed; the past once it was given back."""
    process: str
    """Boot, namespace, process and its start: tells a dead process of this machine from a live one."""
    token: str
    """Secret of this holder: a second one in the same process has another."""

    def is_free(self, at: datetime) -> bool:
        """Whether another may take it: it was given back, it lapsed, or its process is dead for certain."""
        return self.expires_at <= at or _is_gone(self.process)


class Hold:
    """A lease in the hands of this process."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.lost = ""
        """Who took it over, in a sentence; empty while it is held."""

    def check(self, connection: sa.Connection) -> None:
        """Raise LockedError where the lease was taken over, as this transaction sees it."""
        found = _find(connection, self.lease.name)
        if found is not None and found.token == self.lease.token:
            return
        who = f"{found.owner} took it over at {_moment(found.taken_at)}" if found else "it is gone"
        self.lost = f"this process lost the lease `{self.lease.name}` (epoch {self.lease.epoch}): {who}"
        raise LockedError(
            self.lost,
            hint="nothing of this was written; the same command goes on once the other process is done",
            owner=found.owner if found else "",
            epoch=found.epoch if found else 0,
        )


class Leases:
    """The leases of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> Lease | None:
        """Return a lease as it was last written; None where it was never taken."""
        with self._database.read() as connection:
            return _find(connection, name)

    def holder(self, name: str) -> Lease | None:
        """Return a lease that nobody else may take at present; None where it is free."""
        with self._database.read() as connection:
            found = _find(connection, name)
            return None if found is None or found.is_free(_clock(connection)) else found

    def take(self, name: str, seconds: float, *, over: bool = False) -> Lease:
        """Take a free lease for some seconds; raises LockedError naming the owner of one that is held.

        `over` takes one that is held as well: its owner writes nothing more.
        """
        with self._database.write() as connection:
            found, at = _find(connection, name), _clock(connection)
            if found is not None and not over and not found.is_free(at):
                raise _held(found, self._database.where)
            lease = Lease(
                name=name,
                owner=f"process {os.getpid()} on `{platform.node()}`",
                epoch=(found.epoch if found else 0) + 1,
                taken_at=at,
                expires_at=at + timedelta(seconds=seconds),
                process=_mark(os.getpid()),
                token=uuid4().hex,
            )
            upsert(connection, t.leases, lease.model_dump())
        return lease

    def lapse(self) -> None:
        """Free all leases: whoever held one holds it in another copy of this ledger."""
        with self._database.write() as connection:
            connection.execute(t.leases.update().values(expires_at=_clock(connection)))

    @contextmanager
    def held(self, name: str, seconds: float) -> Iterator[Hold]:
        """Hold a lease: renewed in the background, checked in every write of this ledger, given back.

        Raises LockedError where another process holds it. While it is held, a write of any thread of this
        ledger raises LockedError once another process has taken the lease over.
        """
        hold, stop = Hold(self.take(name, seconds)), threading.Event()
        beat = threading.Thread(
            target=self._renew, args=(hold, seconds, stop), name=f"lease {name}", daemon=True
        )
        try:
            with self._database.fenced(hold.check):
                beat.start()
                yield hold
        finally:
            stop.set()
            beat.join()
            self._give_back(hold)

    def _renew(self, hold: Hold, seconds: float, stop: threading.Event) -> None:
        """Push the end of the lease on until it is given back or lost; a disk in trouble is tried again."""
        lease = t.leases.c
        while not stop.wait(seconds / _BEATS) and not hold.lost:
            with suppress(StoreError), self._database.write(lasting=False) as connection:
                until = _clock(connection) + timedelta(seconds=seconds)
                where = (lease.name == hold.lease.name, lease.token == hold.lease.token)
                connection.execute(t.leases.update().where(*where).values(expires_at=until))

    def _give_back(self, hold: Hold) -> None:
        """Let the lease lapse now; where the disk refuses, it lapses by itself."""
        lease = t.leases.c
        with suppress(StoreError), self._database.write() as connection:
            where = (lease.name == hold.lease.name, lease.token == hold.lease.token)
            connection.execute(t.leases.update().where(*where).values(expires_at=_clock(connection)))


def _find(connection: sa.Connection, name: str) -> Lease | None:
    row = connection.execute(sa.select(t.leases).where(t.leases.c.name == name)).mappings().one_or_none()
    return None if row is None else Lease.model_validate(dict(row))


def _clock(connection: sa.Connection) -> datetime:
    """Return the time of the database: the machines of a server's clients need not agree on theirs."""
    if connection.dialect.name == "sqlite":
        return now()
    moment: datetime = connection.exec_driver_sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'").scalar_one()
    return moment.replace(tzinfo=UTC)


def _held(lease: Lease, where: str) -> LockedError:
    return LockedError(
        f"the lease `{lease.name}` of the ledger `{where}` is held by {lease.owner} since "
        f"{_moment(lease.taken_at)} (epoch {lease.epoch})",
        hint="wait for that process or end it, then run the same command again; the lease of a process that "
        f"died elsewhere is free after {_moment(lease.expires_at)}",
        owner=lease.owner,
        epoch=lease.epoch,
    )


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _mark(process: int) -> str:
    """Name a process so that no later one has the same name, also with the same number."""
    return f"{_machine()}/{process}/{_state(process)[1]}"


def _is_gone(mark: str) -> bool:
    """Whether a process is dead for certain: one of this machine that is not there, or not the same."""
    machine, process, started = mark.rsplit("/", 2)
    if machine != _machine():
        return False
    state, begun = _state(int(process))
    return state in "ZX" or begun != started


def _machine() -> str:
    """Return what boot and process namespace this is: process numbers mean something in there only."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _state(process: int) -> tuple[str, str]:
    """Return state and start of a process: `X` for one that is not there, no start where none is told."""
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return "X", ""
        except OSError:
            pass
        return "?", ""
    try:
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X", ""
    fields = told.rpartition(")")[2].split()  # the name of a program may hold spaces and brackets
    return fields[0], fields[19]
