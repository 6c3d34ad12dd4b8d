"""Shards on disk: safetensors files of whole rows that are only ever added, each with a CRC. No torch.

safetensors notices no flipped bits, so every shard carries the CRC-32 of its index and its tensors by name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.files import aside_folder, put_in_place
from agentkd.schema import content_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.generic]]

__all__ = ["Shard", "read_shard", "write_shard"]


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


def read_shard(file: Path, names: Collection[str]) -> Shard | None:
    """Return a shard; None where its content does not match its CRC."""
    from safetensors import safe_open

    try:
        with safe_open(str(file), framework="numpy") as opened:
            facts = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in names}
        if _crc(tensors, facts["rows"]) != int(facts["crc"]):
            return None
        return Shard(facts, json.loads(facts["rows"]), tensors)
    except Exception:  # safetensors has its own error class per release
        return None


def _crc(tensors: Tensors, index: str) -> int:
    crc = zlib.crc32(index.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].tobytes(), crc)
    return crc
