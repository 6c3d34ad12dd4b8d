"""Vectors out of a table, for every system of the memory benchmark: no time of theirs is spent on a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

__all__ = ["TENANTS", "Served"]

TENANTS = ("acme", "other")


class Served:
    """Vectors by text."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self.texts: list[str] = facts["texts"]
        self.queries: list[str] = facts["queries"]
        self.vectors = np.asarray(np.load(folder / "vectors.npy", mmap_mode="r"))  # a memmap answers slowly
        self.row = {text: at for at, text in enumerate([*self.texts, *self.queries])}
        self.unknown = 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors; a text that is not in the table gets one of its own hash."""
        rows = [self.row.get(text, -1) for text in texts]
        self.unknown += rows.count(-1)
        picked = self.vectors[[max(row, 0) for row in rows]]
        made = np.array(picked, np.float32).reshape(len(rows), self.vectors.shape[1])
        for at in (at for at, row in enumerate(rows) if row < 0):
            made[at] = np.random.default_rng(abs(hash(texts[at])) % 2**32).normal(size=made.shape[1])
            made[at] /= np.linalg.norm(made[at])
        return made

    def owned(self, done: int, size: int, largest: int, batch: int) -> Iterator[tuple[str, range]]:
        """Yield each tenant's own texts between two sizes, in batches: a twentieth of a size for each."""
        for number, tenant in enumerate(TENANTS):
            start = len(self.texts) - (len(TENANTS) - number) * (largest // 20)
            for at in range(done // 20, size // 20, batch):
                yield tenant, range(start + at, start + min(at + batch, size // 20))
