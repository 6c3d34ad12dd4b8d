"""The one way into an archive: every entry of a zip or a tar is judged before one byte is written.

Refused are entries with an absolute path or one that climbs out, links, devices, encrypted and sparse
entries, two entries that some file system takes for one (equal, or equal but for case or Unicode
composition), a name that is both file and folder, and whatever passes the limits on entries, bytes, ratio and
depth. Nothing keeps its mode, owner or time.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from agentkd.errors import AgentkdError, DataError
from agentkd.files import put_in_place

__all__ = ["CODE", "Archive", "Limits", "open_archive", "place"]

CODE = frozenset(
    {".bat", ".ckpt", ".dll", ".dylib", ".exe", ".joblib", ".pickle", ".pkl", ".ps1", ".pt", ".pth", ".py"}
    | {".pyc", ".pyd", ".pyi", ".pyo", ".sh", ".so"}
)
"""Endings of files that run code, or may when they are loaded: data never needs one."""

_CHUNK = 1 << 20
_SMALL = 1 << 16  # below this a ratio says nothing
_TAR_OVERHEAD = 3 * tarfile.BLOCKSIZE  # a header, its long name and the padding, per entry
_MAX_NAME_BYTES = 255
_UNREADABLE = (errno.ENOENT, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EINVAL)


@dataclass(frozen=True)
class Limits:
    """What an archive may hold."""

    entries: int = 1000
    """Files and folders."""
    n_bytes: int = 64 << 20
    """Bytes of all files, unpacked; the archive itself may not be larger either."""
    ratio: int = 200
    """Bytes unpacked per byte packed: real data has 1 to 10, a bomb 1000."""
    depth: int = 16
    """Parts of a path."""


@dataclass(frozen=True)
class _Entry:
    name: str
    n_bytes: int
    n_packed: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


class Archive:
    """An archive whose entries were all judged and found harmless."""

    def __init__(self, path: Path, entries: Sequence[_Entry]) -> None:
        self.path = path
        self._files = {entry.name: entry for entry in entries if not entry.is_folder}

    @property
    def sizes(self) -> dict[str, int]:
        """Return the unpacked size in bytes of every file by its path."""
        return {name: entry.n_bytes for name, entry in self._files.items()}

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises DataError where it is damaged, KeyError for an unknown one."""
        return b"".join(_chunks(self.path, self._files[name]))

    def unpack(
        self,
        folder: Path,
        *,
        leave_out: frozenset[str] = frozenset(),
        on_bytes: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """Write the files into the new `folder`; return size in bytes by relative path.

        Whoever puts the folder in place waits for the disk. Files whose ending is in `leave_out` are not
        written. `on_bytes` is called with the packed bytes done
        so far. Raises DataError for a damaged file; the folder is removed then.
        """
        folder.mkdir(parents=True)
        try:
            return self._write(folder, leave_out, on_bytes)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _write(
        self, folder: Path, leave_out: frozenset[str], on_bytes: Callable[[int], None] | None
    ) -> dict[str, int]:
        done, sizes = 0, {}
        for name, entry in self._files.items():
            if PurePosixPath(name).suffix.lower() in leave_out:
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                for chunk in _chunks(self.path, entry):
                    sink.write(chunk)
            sizes[name] = entry.n_bytes
            done += entry.n_packed
            if on_bytes:
                on_bytes(done)
        return sizes


@contextmanager
def open_archive(path: Path, limits: Limits | None = None) -> Iterator[Archive]:
    """Open a zip or a tar (plain, gzip, bzip2, xz) and judge all that it holds.

    Raises DataError for what cannot be read as an archive and for every entry that could do harm.
    """
    limits = limits or Limits()
    with ExitStack() as stack:
        with _sound(path):
            packed = path.stat().st_size
            if packed > limits.n_bytes:
                raise _refused(path, f"has {packed:,} bytes, more than the {limits.n_bytes:,} allowed")
            entries = _entries(path, limits, stack)
            _judge(path, entries, limits, packed)
        yield Archive(path, entries)


def place(aside: Path, folder: Path, is_whole: Callable[[], bool]) -> None:
    """Move the finished folder `aside` to `folder`, replacing a damaged one; the first process wins."""
    if folder.exists() and not is_whole():
        shutil.rmtree(folder)
    try:
        put_in_place(aside, folder)
    except OSError:
        if not is_whole():
            raise


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"archive `{path}` {why}", hint="nothing was unpacked; do not use this file", path=str(path)
    )


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turn what the readers raise for damaged data into one DataError; trouble of the disk goes through."""
    try:
        yield
    except AgentkdError:
        raise
    except Exception as error:  # zipfile, tarfile, zlib, lzma and struct each have their own word
        number = error.errno if isinstance(error, OSError) else None
        if number in _UNREADABLE:
            raise DataError(f"`{path}` cannot be read: {os.strerror(number or 0)}", path=str(path)) from error
        if number is not None:
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise _refused(path, f"is not sound: {said}") from error


def _entries(path: Path, limits: Limits, stack: ExitStack) -> list[_Entry]:
    """Return what an archive says that it holds; its kind is told by its first bytes alone."""
    with path.open("rb") as opened:
        head = opened.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_entries(path, stack.enter_context(zipfile.ZipFile(path)))
    plain: Any = path.open("rb")
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open)):
        if head.startswith(magic):
            plain.close()
            with cast(IO[bytes], opener(path, "rb")) as packed:
                plain = _unpacked(path, packed, limits)
    stack.enter_context(plain)
    plain.seek(257)
    if plain.read(5) != b"ustar":
        raise _refused(path, "is neither a zip nor a tar")
    plain.seek(0)
    return _tar_entries(path, stack.enter_context(tarfile.open(fileobj=plain, mode="r:")), limits)


def _unpacked(path: Path, packed: IO[bytes], limits: Limits) -> IO[bytes]:
    """Return a temporary file with the plain tar; no more of it is ever made than the limits allow."""
    most = limits.n_bytes + limits.entries * _TAR_OVERHEAD
    most = min(most, limits.ratio * max(path.stat().st_size, _SMALL))
    plain = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller's stack
    try:
        while chunk := packed.read(_CHUNK):
            plain.write(chunk)
            if plain.tell() > most:
                raise _refused(path, f"unpacks to more than {most:,} bytes")
    except BaseException:
        plain.close()
        raise
    return plain


def _zip_entries(path: Path, opened: zipfile.ZipFile) -> list[_Entry]:
    entries = []
    for info in opened.infolist():
        # zipfile cuts a name at NUL and turns the platform's separator: judge what the file really says.
        name, is_folder = info.orig_filename, info.orig_filename.endswith("/")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in ((0, stat.S_IFDIR) if is_folder else (0, stat.S_IFREG)):
            raise _refused(path, f"holds a link or a device, {name!r}")
        if info.flag_bits & 0x1:
            raise _refused(path, f"holds an encrypted entry, {name!r}")
        if is_folder and info.file_size:
            raise _refused(path, f"holds a folder with content, {name!r}")
        reader = cast(Callable[[], IO[bytes]], lambda info=info: opened.open(info))
        entries.append(_Entry(name.rstrip("/"), info.file_size, info.compress_size, is_folder, reader))
        if is_folder and name != f"{entries[-1].name}/":
            raise _refused(path, f"holds an entry with an unsafe name, {name!r}")
    return entries


def _tar_entries(path: Path, opened: tarfile.TarFile, limits: Limits) -> list[_Entry]:
    entries: list[_Entry] = []
    for member in opened:
        if not (member.isdir() or (member.isreg() and not member.issparse())):
            raise _refused(path, f"holds a link, a device or a sparse file, {member.name!r}")
        name, n = member.name, member.size if member.isreg() else 0
        reader = cast(Callable[[], IO[bytes]], lambda member=member: opened.extractfile(member))
        entries.append(_Entry(name, n, n, member.isdir(), reader))
        if len(entries) > limits.entries:
            break
    return entries


def _judge(path: Path, entries: Sequence[_Entry], limits: Limits, packed: int) -> None:
    if len(entries) > limits.entries:
        raise _refused(path, f"holds more than {limits.entries:,} entries")
    total = sum(entry.n_bytes for entry in entries)
    if total > limits.n_bytes:
        raise _refused(path, f"unpacks to {total:,} bytes, more than the {limits.n_bytes:,} allowed")
    if total > limits.ratio * max(packed, _SMALL):
        raise _refused(path, f"unpacks to more than {limits.ratio} times its size")
    spelled: dict[str, str] = {}
    kinds: dict[str, bool] = {}
    for entry in entries:
        _judge_name(path, entry.name, limits)
        parts = PurePosixPath(entry.name).parts
        for n in range(1, len(parts) + 1):
            name, is_folder = "/".join(parts[:n]), n < len(parts) or entry.is_folder
            key = _alike(name)
            if spelled.setdefault(key, name) != name:
                raise _refused(path, f"holds `{name}` twice (also as `{spelled[key]}`)")
            if kinds.setdefault(key, is_folder) != is_folder:
                raise _refused(path, f"uses `{name}` both as a file and as a folder")
    files = [entry.name for entry in entries if not entry.is_folder]
    if len(set(files)) < len(files):
        twice = next(name for n, name in enumerate(files) if name in files[:n])
        raise _refused(path, f"holds `{twice}` twice")


def _judge_name(path: Path, name: str, limits: Limits) -> None:
    parts = name.split("/")
    odd = any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in name)
    if not name or odd or "\\" in name or ":" in name:
        raise _refused(path, f"holds an entry with an unsafe name, {name!r}")
    if any(part in {"", ".", ".."} for part in parts):
        raise _refused(path, f"holds an entry that would leave its folder, `{name}`")
    if any(part != part.rstrip(" .") or len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise _refused(path, f"holds an entry with a name that not every system can write, `{name[:80]}`")
    if len(parts) > limits.depth:
        raise _refused(path, f"holds an entry more than {limits.depth} folders deep, `{name[:80]}`")


def _alike(name: str) -> str:
    """Return what is equal for all names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _chunks(path: Path, entry: _Entry) -> Iterator[bytes]:
    """Yield the content of a file and hold it to the size that its header declares."""
    left = entry.n_bytes
    with _sound(path), entry.open() as source:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            yield chunk
    if left:
        raise _refused(path, f"holds `{entry.name}` with another size than it says")
