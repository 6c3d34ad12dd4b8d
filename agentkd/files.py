"""Files and folders that appear whole or not at all, also when the power goes: aside, synced, renamed.

What a killed process leaves aside names its machine and process, so that the next writer in the same folder
removes it. A full disk leaves the old content and nothing aside.
"""

from __future__ import annotations

import os
import platform
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

__all__ = [
    "ASIDE",
    "append_line",
    "aside_folder",
    "left_behind",
    "opened_whole",
    "own_name",
    "put_in_place",
    "sweep",
    "sync_file",
    "sync_folder",
    "sync_tree",
    "write_whole",
]

ASIDE = ".partial-"
"""Begin of the name of whatever lies aside until it is whole."""


@contextmanager
def opened_whole(path: Path, *, lasting: bool = True) -> Iterator[TextIO]:
    """Open a text file (UTF-8, `\\n`) to write; it takes its place at the end, and not after an error.

    `lasting=False` waits for no disk: for caches, whose loss costs time only.
    """
    with _opened(path, lasting, mode="x", encoding="utf-8", newline="\n") as file:
        yield file


def write_whole(path: Path, data: str | bytes, *, lasting: bool = True) -> None:
    """Write a file of a folder that is there, or leave it as it was."""
    if isinstance(data, str):
        with opened_whole(path, lasting=lasting) as text:
            text.write(data)
    else:
        with _opened(path, lasting, mode="xb") as file:
            file.write(data)


@contextmanager
def _opened(path: Path, lasting: bool, **how: Any) -> Iterator[Any]:
    aside = _free_place(path.parent)
    try:
        with aside.open(**how) as file:
            yield file
            _flush(file, lasting)
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write or flush names no file
        raise
    if lasting:
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log and wait for the disk; a line that was cut off before is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as log:
        size = log.seek(0, os.SEEK_END)
        start = b""
        if size:
            log.seek(size - 1)
            start = b"" if log.read(1) == b"\n" else b"\n"
        try:
            log.write(start + line.encode() + b"\n")
            _flush(log, True)
        except OSError:
            with suppress(OSError):
                os.ftruncate(log.fileno(), size)
            raise
    if not size:
        sync_folder(path.parent)


@contextmanager
def aside_folder(parent: Path) -> Iterator[Path]:
    """Make a folder below `parent` to write into; whatever is still there at the end is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = _free_place(parent)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(aside: Path, place: Path) -> None:
    """Rename a finished folder or file when all of it is on disk, and wait until its name is, too."""
    sync_tree(aside)
    os.replace(aside, place)
    sync_folder(place.parent)


def sweep(*folders: Path) -> int:
    """Remove what dead processes of this machine left aside anywhere below folders; return how many."""
    return sum(_is_removed(left) for folder in folders for left in list(folder.glob(f"**/{_here()}*")))


def sync_tree(path: Path) -> None:
    """Wait until a file, or all files and names below a folder, are on disk."""
    if not path.is_dir():
        sync_file(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(folder, name)):
                sync_file(Path(folder, name))
        sync_folder(Path(folder))


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    with path.open("rb") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(file: IO[str] | IO[bytes], lasting: bool) -> None:
    file.flush()
    if lasting:
        os.fsync(file.fileno())


def own_name(begin: str = ASIDE) -> str:
    """Return a new name that tells this machine and process."""
    return f"{_here(begin)}{os.getpid()}-{os.urandom(4).hex()}"


def left_behind(folder: Path, begin: str = ASIDE) -> list[Path]:
    """Return what dead processes of this machine left in a folder under names of their own."""
    return [left for left in folder.glob(f"{_here(begin)}*") if _is_left(left, begin)]


def _free_place(folder: Path) -> Path:
    """Return a new name in a folder, from which what dead processes left aside is removed."""
    for left in left_behind(folder):
        _is_removed(left)
    return folder / own_name()


def _here(begin: str = ASIDE) -> str:
    """Begin of the names that processes of this machine give."""
    return f"{begin}{zlib.crc32(platform.node().encode()):08x}-"


def _is_left(path: Path, begin: str = ASIDE) -> bool:
    owner = path.name.removeprefix(_here(begin)).partition("-")[0]
    return owner.isdigit() and not _is_alive(int(owner))


def _is_removed(left: Path) -> bool:
    if not _is_left(left):
        return False
    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
