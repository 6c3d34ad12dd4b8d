"""`agentkd doctor --repair`: check ledger, indexes and folders of a workspace; mend them from the ledger."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.cli.check import Check
from agentkd.errors import AgentkdError, LockedError, StoreError
from agentkd.files import ASIDE, sweep

if TYPE_CHECKING:
    from agentkd.memory import IndexCheck
    from agentkd.workspace import Workspace

__all__ = ["repair_workspace"]

_LEFT_SECONDS = 3600.0  # a half-written file this old has no writer any more


def repair_workspace(root: Path, open_workspace: Callable[[], Workspace]) -> Iterator[Check]:
    """Yield what was found and what was done about it; FAIL is what could not be mended.

    Only the ledger is beyond repair: everything else is made from it.
    """
    from agentkd.ledger import Ledger

    with open_workspace() as workspace:
        where = workspace.settings.ledger or root / "ledger.db"
        own = workspace.settings.options("index", "chroma")
        home = Path(str(own["path"])).expanduser() if own.get("path") else root / "index"
        made = () if own.get("url") else (home / "chroma", root / "index" / "words")
    try:
        with Ledger.open(where) as ledger:
            ledger.check()
    except AgentkdError as error:
        yield Check(area="repair", name="ledger", status="FAIL", detail=error.message, hint=error.hint)
        return
    yield Check(area="repair", name="ledger", status="PASS", detail="whole; every reference holds")
    yield _left_over(root)
    yield from _indexes(home / ".lock", made, open_workspace)


def _left_over(root: Path) -> Check:
    """Remove what a killed writer left beside its goal; a half-trained checkpoint is gone on with instead."""
    from agentkd.cycle.parts import FOLDERS

    folders = [root / name for name in FOLDERS]
    n_dead = sweep(*folders)
    found = [*root.glob(f"{ASIDE}*"), *(left for each in folders for left in each.glob(f"**/{ASIDE}*"))]
    old = [path for path in found if time.time() - path.stat().st_mtime > _LEFT_SECONDS]
    for path in old:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    training = len(list(root.glob("checkpoints/*.partial")))
    n_removed = n_dead + len(old)
    told = [f"{n_removed} half-written removed" if n_removed else "nothing half-written"]
    told += [f"{len(found) - len(old)} younger than an hour kept"] if len(found) > len(old) else []
    told += [f"{training} unfinished training kept: a cycle goes on with it"] if training else []
    return Check(area="repair", name="folders", status="PASS", detail="; ".join(told))


def _indexes(lock: Path, made: Sequence[Path], open_workspace: Callable[[], Workspace]) -> Iterator[Check]:
    """Compare the indexes; of those that cannot be read, throw the folders away that we had `made`."""
    try:
        if made and _ends_a_process(lock.parent):
            raise StoreError("reading it ends the process")
        yield from _compared(open_workspace)
        return
    except LockedError as error:
        broken: AgentkdError = error
    except StoreError as error:
        broken = error
        there = [folder for folder in made if folder.is_dir()]
        if there:
            told = f"thrown away, unreadable: {error.message}"
            try:
                _throw_away(lock, there)
                yield Check(area="repair", name="index files", status="PASS", detail=told)
                yield from _compared(open_workspace)
                return
            except AgentkdError as again:
                broken = again
    yield Check(area="repair", name="index", status="FAIL", detail=broken.message, hint=broken.hint)


def _ends_a_process(index: Path) -> bool:
    """Whether the files of an embedded index end the process that searches them: Chroma trusts its files."""
    if not (index / "chroma").is_dir():
        return False
    probe = subprocess.run(
        [sys.executable, "-m", "agentkd.memory.probe", str(index)], capture_output=True, check=False
    )
    return probe.returncode < 0


def _throw_away(lock: Path, folders: Sequence[Path]) -> None:
    """Remove index folders under the lock of the index; its file stays, with the epoch in it."""
    from agentkd.memory import IndexLock

    held = IndexLock(lock)
    try:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        held.release()


def _compared(open_workspace: Callable[[], Workspace]) -> Iterator[Check]:
    """Compare the indexes with the ledger and make them anew where they differ."""
    with open_workspace() as workspace:
        store = workspace.memory
        before = store.check(deep=True)
        if before.agrees and not before.n_unfinished:
            yield Check(area="repair", name="index", status="PASS", detail=f"agrees: {_size(before)}")
            return
        done = ["left-over builds dropped"] if store.drop_unfinished() else []
        if not before.agrees:
            store.rebuild()
            done.append("made anew from the ledger")
        after = store.check(deep=True)
        yield Check(
            area="repair",
            name="index",
            status="PASS" if after.agrees else "FAIL",
            detail=f"{_difference(before)}; {', '.join(done)}; now {_size(after)}"
            + ("" if after.agrees else f", {_difference(after)}"),
            hint="" if after.agrees else "does another process write to it? close it and repair again",
        )


def _size(check: IndexCheck) -> str:
    return f"{check.n_vectors} vectors of {check.n_memories} memories"


def _difference(check: IndexCheck) -> str:
    parts = {
        "missing": check.n_missing,
        "too many": check.n_extra,
        "missing by words": check.n_words_missing,
        "too many by words": check.n_words_extra,
        "not found by their own text": check.n_unfound,
        "unfinished builds": check.n_unfinished,
    }
    return ", ".join(f"{n} {what}" for what, n in parts.items() if n) or "no difference"
