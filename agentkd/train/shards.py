"""Shards on disk: safetensors files of whole rows that are only ever added, each with a CRC. No torch.

safetensors notices no flipped bits, so every shard carries the CRC-32 of its index and its tensors by name.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from agentkd.errors import StoreError
from agentkd.files import aside_folder, put_in_place
from agentkd.schema import content_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]

__all__ = ["Shard", "read_keys", "read_rows", "read_shard", "write_shard"]

_WRONG = (ValueError, KeyError, TypeError)
"""What content that is no shard's raises while it is read."""


@dataclass(frozen=True)
class Shard:
    """A whole shard in memory."""

    facts: dict[str, str]
    """Its metadata."""
    sizes: dict[str, int]
    """Entries of each row along the first axis, by the row's key, in order."""
    tensors: dict[str, Any]
    """Its tensors, all rows one after the other, `[entry, ...]`."""

    def rows(self, wanted: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the tensors of each wanted row, copied out of the shard."""
        start = 0
        for key, size in self.sizes.items():
            if key in wanted:
                yield key, {name: part[start : start + size].copy() for name, part in self.tensors.items()}
            start += size


def write_shard(folder: Path, rows: Mapping[str, Tensors], facts: Mapping[str, str]) -> None:
    """Add a shard with these rows, which have the same tensors; the file appears whole or not at all."""
    import numpy as np
    from safetensors.numpy import save_file

    names = next(iter(rows.values())).keys()
    tensors = {name: np.concatenate([row[name] for row in rows.values()]) for name in names}
    index = json.dumps({key: len(next(iter(row.values()))) for key, row in rows.items()})
    name = content_id("shard", list(rows))
    with aside_folder(folder) as scratch:
        aside = scratch / name
        save_file(tensors, str(aside), metadata={**facts, "rows": index, "crc": str(_crc(tensors, index))})
        put_in_place(aside, folder / f"{name}.safetensors")


def read_rows(
    folder: Path, names: Collection[str], wanted: Collection[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the wanted rows of a folder's shards; a damaged shard is deleted.

    Raises StoreError for a shard that the system does not let us read; it stays. The folder's time says from
    now on when it was used last.
    """
    with suppress(OSError):
        os.utime(folder)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            shard = read_shard(file, names, wanted)
        except FileNotFoundError:  # another process took it away meanwhile
            continue
        if shard is None:
            file.unlink(missing_ok=True)
        else:
            yield from shard.rows(wanted)


def read_keys(file: Path) -> set[str]:
    """Return the keys of a shard's rows by its own account; none where it is damaged. Reads no tensor.

    Raises as `read_shard` does.
    """
    try:
        with _opened(file) as opened:
            return set(json.loads(_facts(opened)["rows"]))
    except _WRONG:
        return set()


def read_shard(file: Path, names: Collection[str], wanted: Collection[str] | None = None) -> Shard | None:
    """Return a shard; None where its content is damaged.

    Of one that by its own account has no `wanted` row nothing else is read: it comes without rows.

    Raises FileNotFoundError where there is none, StoreError where the system does not let us read it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with _opened(file) as opened:
            facts = _facts(opened)
            sizes = json.loads(facts["rows"])
            if wanted is not None and not any(key in wanted for key in sizes):
                return Shard(facts, {}, {})
            opened.seek(0)
            stored = load(opened.read())
        tensors = {name: stored[name] for name in names}
        is_whole = _crc(tensors, facts["rows"]) == int(facts["crc"])
    except (SafetensorError, *_WRONG):
        return None
    return Shard(facts, sizes, tensors) if is_whole else None


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """Open a shard as Python does: safetensors calls missing whatever it cannot open, and maps the rest."""
    try:
        with file.open("rb") as opened:
            yield opened
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot read `{file}`: {error.strerror or error}",
            hint="see to it and run the same command again; the file stays as it is",
            path=str(file),
        ) from error


def _facts(opened: BinaryIO) -> dict[str, str]:
    """Return the metadata of an open shard: JSON in its header, whose length the first eight bytes are."""
    n = int.from_bytes(opened.read(8), "little")
    if n > os.fstat(opened.fileno()).st_size:
        raise ValueError("the header is longer than the file")
    facts: dict[str, str] = json.loads(opened.read(n))["__metadata__"]
    return facts


def _crc(tensors: Tensors, index: str) -> int:
    crc = zlib.crc32(index.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), crc)
    return crc
