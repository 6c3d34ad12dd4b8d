"""Backups of a workspace: a folder with ledger, datasets, checkpoints and reports of one moment, and hashes.

The ledger is copied first, in one read transaction, while others write. What it names was put in place before
it was named and is never changed after, so files copied later fit it. The index is left out: it is made anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

import agentkd
from agentkd.errors import AgentkdError, CheckpointError, ConfigError, DataError, LockedError, StoreError
from agentkd.files import aside_folder, put_in_place, write_whole
from agentkd.schema import Backup

if TYPE_CHECKING:
    from agentkd.ledger import Ledger
    from agentkd.workspace.opening import Opening

__all__ = ["backup", "renew_index", "restore"]

MANIFEST, LEDGER = "backup.json", "ledger.db"
WHOLE = ("skills", "plugins", "agentkd.toml", "exports.jsonl")
"""What is copied as it is."""
_PARTS = (
    "datasets", "checkpoints", "cycles", "skills", "plugins", "exports.jsonl", f"{LEDGER}-shm",
    f"{LEDGER}-wal", LEDGER,
)  # fmt: skip
"""What a restore replaces."""
_BEGUN = ".restore-begun"
"""Marks a folder that a restore works in; what is there without a ledger is the restore's own."""


def backup(workspace: Opening, target: Path) -> Backup:
    """Write a backup to a folder that is not there yet; it appears whole or not at all.

    Raises ConfigError where the folder exists, StoreError for a full disk or a ledger on a server.
    """
    target = target.expanduser().absolute()
    if target.exists():
        raise ConfigError(f"`{target}` exists already", hint="name a folder that is not there yet")
    root = workspace.root
    if target.is_relative_to(root):
        raise ConfigError(
            f"`{target}` lies in the workspace itself", hint="name a folder elsewhere, best on another disk"
        )
    try:
        with aside_folder(target.parent) as scratch:
            aside = scratch / target.name
            aside.mkdir()
            manifest = _written(workspace, root, aside)
            write_whole(aside / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
            put_in_place(aside, target)
    except AgentkdError:
        raise
    except OSError as error:
        raise _refused(target, error) from error
    return manifest


def _written(workspace: Opening, root: Path, aside: Path) -> Backup:
    from agentkd.hf import file_sha256
    from agentkd.ledger import Ledger
    from agentkd.ledger.tables import SCHEMA_VERSION

    at = workspace.ledger.copy_to(aside / LEDGER)
    with Ledger.open(aside / LEDGER, read_only=True) as copy:
        copy.check()
        counts = copy.counts()
        named = list(_named(copy, root))
    missing = [name for name, folder, is_whole in named if not _copied(folder, root, aside, is_whole)]
    for name in WHOLE:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, aside / name)
        elif source.is_file():
            shutil.copyfile(source, aside / name)
    files = sorted(path for path in aside.glob("**/*") if path.is_file())
    return Backup(
        created_at=at,
        agentkd=agentkd.__version__,
        schema_version=SCHEMA_VERSION,
        files={path.relative_to(aside).as_posix(): file_sha256(path) for path in files},
        counts=counts,
        missing=tuple(missing),
    )


def _named(ledger: Ledger, root: Path) -> Iterator[tuple[str, Path, Callable[[Path], bool]]]:
    """Yield the folders that a ledger speaks of, each with its name and a test of whether it is whole."""
    for card in ledger.datasets.list():
        yield card.id, root / "datasets" / card.id, lambda folder: (folder / "card.json").is_file()
    for checkpoint in ledger.checkpoints.list():
        yield checkpoint.name, root / "checkpoints" / checkpoint.name, _is_sound
    for report in ledger.cycles.list("done"):
        folder = root / "cycles" / f"{report.number:04d}"
        yield report.id, folder, lambda folder: (folder / "report.json").is_file()


def _is_sound(folder: Path) -> bool:
    from agentkd.hf import check_files

    try:
        check_files(folder)
    except CheckpointError:
        return False
    return True


def _copied(folder: Path, root: Path, aside: Path, is_whole: Callable[[Path], bool]) -> bool:
    """Copy a folder; False where it is gone, or not whole."""
    copy = aside / folder.relative_to(root)
    if not folder.is_dir():
        return False
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".partial-*"))
    if is_whole(copy):
        return True
    shutil.rmtree(copy)
    return False


def read_manifest(source: Path) -> Backup:
    """Read and check a backup: every file there, none changed; raises DataError naming the first at fault."""
    from agentkd.hf import file_sha256

    try:
        manifest = Backup.model_validate_json((source / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            f"`{source}` is no backup: `{MANIFEST}` is missing or cannot be read",
            hint="name a folder that `agentkd backup` wrote",
            path=str(source),
        ) from error
    for name, digest in manifest.files.items():
        file = source / name
        if not file.resolve().is_relative_to(source.resolve()):
            raise DataError(f"the backup `{source}` names `{name}`, outside itself", path=str(source))
        if not file.is_file() or file_sha256(file) != digest:
            raise DataError(
                f"`{file}` is missing or differs from its sha256 in `{MANIFEST}`",
                hint="this backup is damaged: take another one",
                path=str(file),
            )
    return manifest


def restore(source: Path, root: Path, *, force: bool = False) -> tuple[Backup, Path | None]:
    """Put a backup into a workspace folder; returns its manifest, and where what was there before lies now.

    The backup is checked first. The ledger comes last, so a restore that was cut off is simply repeated. A
    workspace with a ledger is replaced with `force` only; its parts are moved aside, not deleted. An index
    that lies elsewhere keeps what it holds until `renew_index`. Raises DataError for a damaged backup,
    LockedError where another process uses the workspace.
    """
    from agentkd.config import CONFIG_NAME, load_settings
    from agentkd.ledger import Ledger

    source, root = source.expanduser().absolute(), root.expanduser().absolute()
    manifest = read_manifest(source)
    has_settings = (root / CONFIG_NAME).is_file()
    if load_settings(root if has_settings else source).ledger:
        raise ConfigError(
            f"the settings of `{root}` put the ledger elsewhere",
            hint="take `ledger` out of `agentkd.toml`: a backup is restored into the folder",
        )
    if (root / LEDGER).exists() and not force:
        raise ConfigError(
            f"`{root}` has a ledger already",
            hint="restore elsewhere, or replace it with `--force`",
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with aside_folder(root) as aside:
            for name in manifest.files:
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, aside / name)
            with Ledger.open(aside / LEDGER) as ledger:  # migrated here, where nothing can be lost
                ledger.check()
                ledger.leases.lapse()
                ledger.memories.clear_index_marks()
            is_begun = (root / _BEGUN).exists() and not (root / LEDGER).exists()
            old = None if is_begun else _moved_away(root)
            (root / _BEGUN).touch()  # from here on, what is there without a ledger came out of a backup
            _moved_in(aside, root, has_settings)
            (root / _BEGUN).unlink()
    except AgentkdError:
        raise
    except OSError as error:
        raise _refused(root, error) from error
    return manifest, old


def renew_index(workspace: Opening) -> None:
    """Make the index of a restored workspace anew: one outside its folder still follows the old ledger."""
    workspace.memory.drop_unfinished()
    workspace.memory.rebuild()
    workspace.memory.settle()


def _moved_in(aside: Path, root: Path, has_settings: bool) -> None:
    from agentkd.config import CONFIG_NAME

    with _index_lock(root):
        for path in (root / "index").glob("*/"):
            shutil.rmtree(path)
    skipped = {MANIFEST, f"{LEDGER}-wal", f"{LEDGER}-shm", *([CONFIG_NAME] if has_settings else [])}
    for log in (root / f"{LEDGER}-wal", root / f"{LEDGER}-shm"):
        log.unlink(missing_ok=True)  # of another ledger: this one must not read it
    for path in sorted(aside.iterdir(), key=lambda path: path.name == LEDGER):
        if path.name in skipped:
            continue
        place = root / path.name
        if place.is_dir():
            shutil.rmtree(place)  # an empty one, or left by a restore that was cut off
        put_in_place(path, place)


def _moved_away(root: Path) -> Path | None:
    """Move all parts of a workspace that nobody uses into a folder of their own; None where there are none.

    The ledger goes last: until then a restore that is cut off leaves a workspace, and is refused again
    without `--force`. A ledger that cannot be opened is moved as it is: it may be why somebody restores.
    """
    before = root / f"replaced-{time.strftime('%Y%m%d-%H%M%S')}"
    with _index_lock(root):
        if (root / LEDGER).exists():
            _refuse_used(root)
        there = [name for name in _PARTS if _is_there(root / name)]
        if not there:
            return None
        before.mkdir()
        for name in there:
            put_in_place(root / name, before / name)
    return before


def _is_there(part: Path) -> bool:
    return part.is_file() or (part.is_dir() and any(part.iterdir()))


def _refuse_used(root: Path) -> None:
    """Raise LockedError where another process works with the ledger."""
    from agentkd.ledger import Ledger

    try:
        with Ledger.open(root / LEDGER) as ledger, ledger.leases.held("cycle", 600.0):
            pass  # raises LockedError where a cycle runs
    except LockedError:
        raise
    except StoreError:
        return  # damaged: nobody can work with it
    if (root / f"{LEDGER}-wal").exists():  # the last one who closes it takes the log in
        raise LockedError(
            f"another process has the ledger of `{root}` open", hint="end it, then restore again"
        )


@contextmanager
def _index_lock(root: Path) -> Iterator[None]:
    """Keep every process out of the index; raises LockedError where one uses it."""
    from agentkd.memory import IndexLock

    lock = IndexLock(root / "index" / ".lock")
    try:
        yield
    finally:
        lock.release()


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write `{path}`: {error.strerror or error}",
        hint="check free space and rights; nothing was left behind",
        path=str(path),
    )
