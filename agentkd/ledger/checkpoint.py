"""Checkpoints: the registry, what serves, and the way back."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from agentkd.errors import CheckpointError, DataError, NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, insert_once
from agentkd.ledger.taint import is_tainted, tainted_after
from agentkd.schema import Checkpoint, Value, now

__all__ = ["Checkpoints", "ServingEvent"]

BASE = "base"
_ORDER = (t.checkpoints.c.number, t.checkpoints.c.created_at, t.checkpoints.c.name)
Found = list[Checkpoint]  # inside the class, `list` is the method


class ServingEvent(Value):
    """One switch of what serves."""

    seq: int
    """Number of the switch."""
    action: Literal["promote", "rollback"]
    """What was done."""
    name: str
    """Checkpoint that was promoted, or that was taken back."""
    reason: str = ""
    """Why."""
    happened_at: datetime
    """When (UTC)."""


class Checkpoints:
    """Every trained adapter with its status, and the history of the serving one."""

    def __init__(self, database: Database, redact: Callable[[str], str]) -> None:
        self._database = database
        self._redact = redact

    def add(self, checkpoint: Checkpoint) -> bool:
        """Store a checkpoint whose dataset is known; False when its name is there.

        One that was trained on what was revoked meanwhile, or went on from a tainted one, comes in tainted.
        """
        row = {
            "name": checkpoint.name,
            "number": _number(checkpoint.name),
            "base_id": checkpoint.base_id,
            "dataset_id": checkpoint.dataset_id,
            "parent": checkpoint.parent or None,
            "status": "candidate" if checkpoint.status in ("serving", "previous") else checkpoint.status,
            "created_at": checkpoint.created_at,
            "body": dump(checkpoint),
        }
        with self._database.write() as connection:
            if _found(connection, t.checkpoints.c.name == checkpoint.name):
                return False
            if is_tainted(connection, checkpoint.dataset_id, checkpoint.parent):
                row["status"] = "tainted"
            return insert_once(connection, t.checkpoints, row)

    def get(self, name: str) -> Checkpoint:
        """Return a checkpoint with its present status; raises NotFoundError."""
        with self._database.read() as connection:
            return _get(connection, name)

    def list(self, status: str | None = None, dataset_id: str | None = None) -> Found:
        """Return checkpoints by number."""
        c = t.checkpoints.c
        where = [c.status == status] if status is not None else []
        where += [c.dataset_id == dataset_id] if dataset_id is not None else []
        with self._database.read() as connection:
            return _found(connection, *where)

    def names(self) -> tuple[str, ...]:
        """Return all names by number."""
        with self._database.read() as connection:
            query = sa.select(t.checkpoints.c.name).order_by(*_ORDER)
            return tuple(connection.execute(query).scalars())

    def next_number(self) -> int:
        """Return the number that the next checkpoint gets, from 1."""
        with self._database.read() as connection:
            return (connection.execute(sa.select(sa.func.max(t.checkpoints.c.number))).scalar_one() or 0) + 1

    def serving(self) -> Checkpoint | None:
        """Return what serves; None while the base model does."""
        with self._database.read() as connection:
            stack = _stack(connection)
            return _get(connection, stack[-1]) if stack else None

    def promoted(self) -> tuple[str, ...]:
        """Return what was promoted and not taken back since, oldest first, each once."""
        with self._database.read() as connection:
            return tuple(reversed(dict.fromkeys(reversed(_stack(connection)))))

    def serving_at(self, at: datetime) -> str:
        """Return what served at a time: a checkpoint's name, or `base`."""
        with self._database.read() as connection:
            stack = _stack(connection, t.serving.c.happened_at <= at)
        return stack[-1] if stack else BASE

    def withdrawn(self, at: datetime | None = None) -> frozenset[str]:
        """Return what was rolled back and serves no more, or is tainted: at a time, by default now."""
        s, c = t.serving.c, t.checkpoints.c
        past = [s.happened_at <= at] if at is not None else []
        with self._database.read() as connection:
            events = connection.execute(sa.select(s.name, s.action).where(*past).order_by(s.seq))
            last = {row.name: row.action for row in events}
            stack = _stack(connection, *past)
            gone = set(connection.execute(sa.select(c.name).where(c.status == "tainted")).scalars())
            gone -= tainted_after(connection, at) if at is not None else set()
        back = {name for name, action in last.items() if action == "rollback"}
        return frozenset(gone | back.difference(stack[-1:]))  # what was promoted twice may serve again

    def promote(self, name: str, reason: str = "", *, force: bool = False) -> bool:
        """Let a checkpoint serve; False when it does already. A tainted one raises CheckpointError."""
        with self._database.write() as connection:
            checkpoint, stack = _get(connection, name), _stack(connection)
            if stack and stack[-1] == name:
                return False
            if checkpoint.status == "tainted" and not force:
                raise CheckpointError(
                    f"checkpoint `{name}` was trained on a memory that was revoked since",
                    hint="`agentkd cycle --recompile` trains a new one without that memory",
                )
            if stack:
                _retire(connection, stack[-1])
            _log(connection, "promote", name, self._redact(reason))
            _set_status(connection, name, "serving")
        return True

    def rollback(self, reason: str = "") -> tuple[str, str]:
        """Take the serving checkpoint back and return (what served, what serves now; `base` for none).

        Tainted predecessors are passed over. Raises NotFoundError while the base model serves.
        """
        with self._database.write() as connection:
            stack = _stack(connection)
            if not stack:
                raise NotFoundError(
                    "there is nothing to roll back: the base model serves", hint="promote a checkpoint first"
                )
            gone = stack[-1]
            while stack:
                _log(connection, "rollback", stack[-1], self._redact(reason))
                _retire(connection, stack.pop())
                if stack and _get(connection, stack[-1]).status != "tainted":
                    _set_status(connection, stack[-1], "serving")
                    break
        return gone, stack[-1] if stack else BASE

    def set_status(self, name: str, status: Literal["candidate", "rejected", "tainted"]) -> None:
        """Set what a gate or an audit decided; what serves is switched by `promote` and `rollback`."""
        if status not in ("candidate", "rejected", "tainted"):
            raise DataError(f"status `{status}` cannot be set by hand", hint="use promote or rollback")
        with self._database.write() as connection:
            _get(connection, name)
            _set_status(connection, name, status)

    def history(self) -> tuple[ServingEvent, ...]:
        """Return every promotion and roll-back, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.serving).order_by(t.serving.c.seq)).mappings()
            return tuple(ServingEvent.model_validate(dict(row)) for row in rows)


def _number(name: str) -> int:
    match = re.fullmatch(r"[^@\s/\\]+@(\d+)(?:-[^\s/\\]+)?", name)  # it names a folder
    if match is None:
        raise DataError(f"`{name}` is no checkpoint name", hint="names look like `student@3-1f2e3d4c`")
    return int(match.group(1))


def _stack(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[str]:
    """Replay the history: a promotion goes on top, a roll-back takes the top away."""
    stack: list[str] = []
    for action, name in connection.execute(
        sa.select(t.serving.c.action, t.serving.c.name).where(*conditions).order_by(t.serving.c.seq)
    ):
        if action == "promote":
            stack.append(name)
        elif stack:
            stack.pop()
    return stack


def _log(connection: sa.Connection, action: str, name: str, reason: str) -> None:
    row = {"action": action, "name": name, "reason": reason, "happened_at": now()}
    connection.execute(t.serving.insert(), [row])


def _retire(connection: sa.Connection, name: str) -> None:
    """Mark what served before; a tainted checkpoint stays tainted."""
    c = t.checkpoints.c
    where = (c.name == name, c.status == "serving")
    connection.execute(t.checkpoints.update().where(*where).values(status="previous"))


def _set_status(connection: sa.Connection, name: str, status: str) -> None:
    connection.execute(t.checkpoints.update().where(t.checkpoints.c.name == name).values(status=status))


def _found(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Found:
    c = t.checkpoints.c
    query = sa.select(c.body, c.status).where(*conditions).order_by(*_ORDER)
    return [load(Checkpoint, body, status=status) for body, status in connection.execute(query)]


def _get(connection: sa.Connection, name: str) -> Checkpoint:
    found = _found(connection, t.checkpoints.c.name == name)
    if not found:
        raise NotFoundError(f"there is no checkpoint `{name}`", hint="`agentkd checkpoints list` shows them")
    return found[0]
