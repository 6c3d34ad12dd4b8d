"""Shards of per-label figures on disk: safetensors files that are only ever added, each with a CRC.

safetensors notices no flipped bits, so that every shard carries the CRC-32 of its tensors and its index;
one that fails it is deleted, and its rows are computed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import torch

from agentkd.schema import content_id

__all__ = ["read_shards", "write_shard"]


def write_shard(folder: Path, rows: Mapping[str, torch.Tensor]) -> None:
    """Add a shard with one tensor `[label, ...]` per row key; the file appears whole or not at all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    figures = torch.cat(list(rows.values())).contiguous().cpu()
    index = json.dumps({key: len(row) for key, row in rows.items()})
    name = content_id("shard", list(rows))
    aside = folder / f"{name}.{os.getpid()}.tmp"
    save_file({"figures": figures}, str(aside), metadata={"rows": index, "crc": str(_crc(figures, index))})
    with open(aside, "rb") as written:
        os.fsync(written.fileno())
    os.replace(aside, folder / f"{name}.safetensors")


def read_shards(folder: Path, wanted: Container[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the wanted rows of a folder's shards; delete a shard whose content does not match its CRC."""
    for shard in sorted(folder.glob("*.safetensors")):
        start = 0
        figures, sizes = _read(shard)
        for key, size in sizes.items():
            if key in wanted:
                yield key, figures[start : start + size]
            start += size


def _read(shard: Path) -> tuple[torch.Tensor, dict[str, int]]:
    from safetensors import safe_open

    try:
        with safe_open(str(shard), framework="pt") as opened:
            facts, figures = opened.metadata(), opened.get_tensor("figures")
        if _crc(figures, facts["rows"]) == int(facts["crc"]):
            return figures, json.loads(facts["rows"])
    except Exception:  # safetensors has its own error class per release
        pass
    with contextlib.suppress(FileNotFoundError):
        shard.unlink()
    return torch.empty(0), {}


def _crc(figures: torch.Tensor, index: str) -> int:
    return zlib.crc32(figures.numpy().tobytes(), zlib.crc32(index.encode()))
