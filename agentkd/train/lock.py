"""One process per training: an advisory lock on the work folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agentkd.errors import LockedError

__all__ = ["exclusive"]


@contextmanager
def exclusive(work: Path, *, wait_seconds: float = 30.0, doing: str = "is training") -> Iterator[None]:
    """Hold `<work>.lock`; a dead process's lock is free at once. Raises LockedError after the wait."""
    work.parent.mkdir(parents=True, exist_ok=True)
    file = work.with_name(f"{work.name}.lock")
    deadline = time.monotonic() + wait_seconds
    while (opened := _try(file)) is None:
        if time.monotonic() > deadline:
            owner = file.read_text(encoding="utf-8").strip() or "unknown"
            raise LockedError(f"process {owner} {doing} `{work}`", hint="wait for it or end it", owner=owner)
        time.sleep(0.2)
    with opened:
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _try(file: Path) -> IO[str] | None:
    opened = open(file, "a", encoding="utf-8")  # noqa: SIM115 - stays open while the lock is held
    try:
        fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(opened.fileno()).st_ino == file.stat().st_ino:
            return opened
    except (BlockingIOError, FileNotFoundError):
        pass
    opened.close()  # held by another process, or its file was removed under us
    return None
