"""The lock of an embedded index: one owning process, named to everybody else.

Embedded Chroma tolerates one process: a second one silently finds a twentieth of the records. So the
owner holds an operating-system lock, which a crash releases by itself, and the file tells who it is.
"""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentkd.errors import LockedError, StoreError

__all__ = ["IndexLock"]


class IndexLock:
    """An exclusive `flock` on a file that holds the owner's pid, epoch and start."""

    def __init__(self, path: Path) -> None:
        """Take the lock; raises LockedError naming the owner where another holds it."""
        self.path = path
        self._pid = os.getpid()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"cannot open the lock `{path}`: {error.strerror}", hint="check the folder's permissions"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _read(self._file)
            os.close(self._file)
            raise _locked(path, owner) from error
        self.epoch = int(_read(self._file).get("epoch", 0)) + 1
        since = datetime.now(UTC).isoformat()
        try:
            _write(self._file, {"pid": self._pid, "epoch": self.epoch, "since": since})
        except OSError as error:
            self.release()
            raise StoreError(
                f"cannot write the lock `{path}`: {error.strerror}",
                hint="see to the disk and run the same command again",
            ) from error

    def check(self) -> None:
        """Raise LockedError in a forked child: it inherits the file but does not own the index."""
        if os.getpid() != self._pid:
            raise LockedError(
                f"the index `{self.path.parent}` belongs to process {self._pid}, this is its child",
                hint="open the workspace after the fork, or start a new process",
                owner=self._pid,
            )

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)  # the lock goes with the last descriptor
            self._file = -1


def _locked(path: Path, owner: dict[str, Any]) -> LockedError:
    pid = owner.get("pid", "unknown")
    who = "this process" if pid == os.getpid() else f"process {pid}"
    return LockedError(
        f"the index `{path.parent}` is in use by {who} since {owner.get('since', 'an unknown time')}",
        hint="close that workspace first, share the index through a server (`chroma run`, then "
        "`[index.chroma] url`), or let this process search exactly in its own memory: "
        '`[index.chroma] when_locked = "exact"`',
        owner=pid,
        epoch=owner.get("epoch", 0),
    )


def _read(file: int) -> dict[str, Any]:
    try:
        facts = json.loads(os.pread(file, 4096, 0) or b"{}")
        return facts if isinstance(facts, dict) else {}
    except ValueError:
        return {}


def _write(file: int, facts: dict[str, Any]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(facts).encode(), 0)
    os.fsync(file)
