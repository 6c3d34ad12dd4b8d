"""Memory packs: a zip with `pack.json`, `memories.jsonl` and, where asked for, `evidence.jsonl`.

`pack.json` names the version of the shape, the time, the number of memories and the sha256 of every other
entry. A pack is read in memory and never unpacked to disk: entries that the manifest does not name, links,
encrypted entries, other paths and sizes past the limits are refused before one byte is taken over.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from agentkd.archive import Limits, open_archive
from agentkd.errors import DataError
from agentkd.interop.imported import Imported
from agentkd.interop.item import stored_item
from agentkd.interop.source import RecordError, parse_json
from agentkd.schema import Correction, Memory, Trajectory, Value, now

__all__ = ["Evidences", "Manifest", "dump_pack", "read_evidence", "read_pack"]

FORMAT = "pack"
SCHEMA_VERSION = 1
_LIMITS = Limits(entries=3, n_bytes=1 << 30, depth=1)
_MANIFEST, _MEMORIES, _EVIDENCE = "pack.json", "memories.jsonl", "evidence.jsonl"
T = TypeVar("T", bound=Value)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal packs have equal bytes


class Manifest(Value):
    """`pack.json`."""

    schema_version: int = SCHEMA_VERSION
    """Version of the pack's shape."""
    created_at: datetime = Field(default_factory=now)
    """When it was written (UTC)."""
    n: int
    """Number of memories."""
    sha256: dict[str, str]
    """Hex digest of every other entry by name."""


class Evidences(Value):
    """What the memories of a pack rest on, where it was exported along."""

    trajectories: tuple[Trajectory, ...] = ()
    """Trajectories, redacted."""
    corrections: tuple[Correction, ...] = ()
    """Corrections, redacted."""


def dump_pack(
    memories: Sequence[Memory], evidence: Evidences | None = None, created_at: datetime | None = None
) -> bytes:
    """Return a pack; equal memories, evidence and time give equal bytes."""
    entries = {_MEMORIES: _lines(memories)}
    if evidence is not None:
        entries[_EVIDENCE] = _lines([*evidence.trajectories, *evidence.corrections])
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in entries.items()}
    manifest = Manifest(n=len(memories), sha256=digests, created_at=created_at or now())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {_MANIFEST: manifest.model_dump_json(indent=1).encode(), **entries}.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return packed.getvalue()


def read_pack(path: str | Path) -> Imported:
    """Read the memories of a pack as they were written; DataError for one that is damaged or unsafe."""
    file = Path(path)
    manifest, entries = _open(file)
    rows = _rows(file, _MEMORIES, entries.get(_MEMORIES, b""))
    memories = [_checked(file, line, _built(file, _MEMORIES, line, Memory, value)) for line, value in rows]
    if len(memories) != manifest.n:
        raise _fault(file, f"holds {len(memories)} memories, its manifest says {manifest.n}")
    return Imported(
        path=str(file),
        format=FORMAT,
        memories=tuple(memories),
        places=tuple(f"{_MEMORIES}, line {line}" for line, _ in rows),
        items={i: item for i, memory in enumerate(memories) if (item := stored_item(memory)) is not None},
        counts_use=True,
    )


def read_evidence(path: str | Path) -> Evidences:
    """Read the evidence that a pack brings along; empty where it brings none."""
    file = Path(path)
    _, entries = _open(file)
    trajectories: list[Trajectory] = []
    corrections: list[Correction] = []
    for line, value in _rows(file, _EVIDENCE, entries.get(_EVIDENCE, b"")):
        if isinstance(value, dict) and "trajectory_id" in value:
            corrections.append(_built(file, _EVIDENCE, line, Correction, value))
        else:
            trajectories.append(_built(file, _EVIDENCE, line, Trajectory, value))
    return Evidences(trajectories=tuple(trajectories), corrections=tuple(corrections))


def _lines(values: Iterable[Value]) -> bytes:
    return "".join(
        json.dumps(value.model_dump(mode="json"), ensure_ascii=False) + "\n" for value in values
    ).encode("utf-8", "replace")


def _open(file: Path) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the entries that it names, all of them checked."""
    with open_archive(file, _LIMITS) as archive:
        names = archive.sizes.keys()
        if unknown := names - {_MANIFEST, _MEMORIES, _EVIDENCE}:
            raise _fault(file, f"holds the entry {min(unknown)!r}, which no pack has")
        if _MANIFEST not in names:
            raise _fault(file, f"has no `{_MANIFEST}`")
        manifest = _manifest(file, archive.read(_MANIFEST))
        if unknown := names - {_MANIFEST} ^ manifest.sha256.keys():
            raise _fault(file, f"its manifest and its entries differ in `{min(unknown)}`")
        entries = {name: archive.read(name) for name in manifest.sha256}
    for name, data in entries.items():
        if hashlib.sha256(data).hexdigest() != manifest.sha256[name]:
            raise _fault(file, f"its entry `{name}` has not the sha256 of the manifest")
    return manifest, entries


def _manifest(file: Path, data: bytes) -> Manifest:
    try:
        value = parse_json(data.decode("utf-8"))
    except (RecordError, UnicodeDecodeError) as error:
        raise _fault(file, f"its `{_MANIFEST}` {error}") from error
    version = value.get("schema_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise _fault(file, f"has version {version}, which a newer agentkd wrote")
    return _built(file, _MANIFEST, 1, Manifest, value)


def _rows(file: Path, name: str, data: bytes) -> list[tuple[int, Any]]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _fault(file, f"its `{name}` is not UTF-8 text") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                rows.append((number, parse_json(line, is_ours=True)))
            except RecordError as error:
                raise _fault(file, f"its `{name}`, line {number}: {error}", number) from error
    return rows


def _built(file: Path, name: str, line: int, kind: type[T], value: Any) -> T:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _fault(file, f"its `{name}`, line {line}: `{where}`: {first['msg']}", line) from error


def _checked(file: Path, line: int, memory: Memory) -> Memory:
    used = memory.utility
    counts = (memory.support, used.recalls - used.wins, used.wins, used.held_out - used.held_out_wins,
              used.held_out_wins)  # fmt: skip
    if memory.schema_version > Memory.model_fields["schema_version"].default:
        raise _fault(file, f"its `{_MEMORIES}`, line {line}: a newer agentkd wrote this memory", line)
    if min(counts) < 0 or not 0 <= memory.confidence <= 1:
        raise _fault(file, f"its `{_MEMORIES}`, line {line}: counts or confidence are out of range", line)
    return memory


def _fault(file: Path, what: str, line: int = 1) -> DataError:
    return DataError(f"`{file}` {what}", hint="nothing was imported", path=str(file), line=line)
