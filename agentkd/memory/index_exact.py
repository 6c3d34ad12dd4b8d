"""An exact vector index in memory: the reference in tests, and quick enough below ten thousand vectors.

Nothing is written to disk; the memory store fills it from the ledger when it is opened.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from agentkd.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.plugins import NoSettings
    from agentkd.protocols import IndexHit, Kit

__all__ = ["ExactIndex", "VectorHit", "build", "cosine"]


_FIRST_ROWS = 16  # of a partition's first block
_times_one = getattr(np, "vecdot", np.matmul)
"""Matrix times one vector on one thread: BLAS wakes others for it, which then spin on somebody's core."""


@dataclass(slots=True)
class VectorHit:
    """One vector that a query found."""

    memory_id: str
    """Memory that it belongs to."""
    key: str
    """Name of the memory's key that was embedded."""
    score: float
    """Cosine similarity in [-1, 1]."""


def cosine(score: float | np.floating[Any]) -> float:
    """Return a cosine to six digits, in [-1, 1]: the rest is noise of the order of the sums."""
    return round(max(-1.0, min(1.0, float(score))), 6)


class _Partition:
    """Vectors of one scope in blocks, each as large as all before: none is ever copied to make room.

    The system gives the memory of a row when it is first written. Freed rows are used again.
    """

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.blocks: list[NDArray[np.float32]] = []
        self.starts: list[int] = []
        self.dead = np.ones(0, bool)
        self.owners: list[tuple[str, str] | None] = []
        self.rows: dict[str, int] = {}
        self.free: list[int] = []

    def put_all(
        self, ids: Sequence[str], vectors: NDArray[np.float32], owners: Sequence[tuple[str, str]]
    ) -> None:
        """Put many vectors; at one stroke where all of them are new and nothing was freed."""
        if self.free or len({*ids}) < len(ids) or not self.rows.keys().isdisjoint(ids):
            for id_, vector, owner in zip(ids, vectors, owners, strict=True):
                self.put(id_, vector, owner)
            return
        start, stop = len(self.owners), len(self.owners) + len(ids)
        self._write(start, vectors)
        self.dead[start:stop] = False
        self.owners += owners
        self.rows.update(zip(ids, range(start, stop), strict=True))

    def put(self, id_: str, vector: NDArray[np.float32], owner: tuple[str, str]) -> None:
        row = self.rows.get(id_)
        if row is None:
            if self.free:
                row = self.free.pop()
            else:
                row = len(self.owners)
                self.owners.append(None)
            self.rows[id_] = row
        self._write(row, vector[None])
        self.dead[row] = False
        self.owners[row] = owner

    def vector(self, row: int) -> NDArray[np.float32]:
        at = bisect_right(self.starts, row) - 1
        found: NDArray[np.float32] = self.blocks[at][row - self.starts[at]]
        return found

    def _write(self, row: int, vectors: NDArray[np.float32]) -> None:
        while len(self.dead) < row + len(vectors):
            room = max(_FIRST_ROWS, len(self.dead))
            self.blocks.append(np.empty((room, self.dimensions), np.float32))
            self.starts.append(len(self.dead))
            self.dead = np.concatenate([self.dead, np.ones(room, bool)])
        while len(vectors):
            at = bisect_right(self.starts, row) - 1
            place = self.blocks[at][row - self.starts[at] :][: len(vectors)]
            place[:] = vectors[: len(place)]
            row, vectors = row + len(place), vectors[len(place) :]

    def drop(self, memory_ids: set[str]) -> None:
        for id_, row in list(self.rows.items()):
            owner = self.owners[row]
            if owner is not None and owner[0] in memory_ids:
                self.remove(id_)

    def remove(self, id_: str) -> None:
        row = self.rows.pop(id_, None)
        if row is not None:
            self.owners[row] = None
            self.dead[row] = True
            self.free.append(row)

    def query(self, vectors: NDArray[np.float32], k: int) -> list[list[IndexHit]]:
        n = len(self.owners)
        used = [
            block[: n - start] for start, block in zip(self.starts, self.blocks, strict=True) if start < n
        ]
        if len(vectors) == 1:
            scores = np.concatenate([_times_one(block, vectors[0]) for block in used])[None]
        else:
            with np.errstate(invalid="ignore"):  # numbers of a damaged file are near nothing
                scores = np.concatenate([vectors @ block.T for block in used], axis=1)
        scores[:, self.dead[:n]] = -np.inf
        return [self._best(line, min(k, len(self.rows))) for line in scores]

    def _best(self, scores: NDArray[np.float32], k: int) -> list[IndexHit]:
        edge = np.partition(scores, len(scores) - k)[len(scores) - k]
        hits: list[IndexHit] = []
        for row in np.flatnonzero(scores >= edge):
            owner = self.owners[row]
            if owner is not None:
                hits.append(VectorHit(owner[0], owner[1], cosine(scores[row])))
        hits.sort(key=lambda hit: (-hit.score, hit.memory_id, hit.key))
        return hits[:k]


class ExactIndex:
    """Compares a query with every vector of a partition; vectors must have unit length."""

    identity = ""  # nothing outlives the process

    def __init__(self) -> None:
        self._partitions: dict[str, _Partition] = {}
        self._lock = threading.RLock()

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        memory_ids: Sequence[str],
        keys: Sequence[str],
        partition: str,
    ) -> None:
        """Insert or replace vectors `[len(ids), d]`; raises DataError where `d` differs from before."""
        if not len(ids):
            return
        with self._lock:
            part = self._partitions.setdefault(partition, _Partition(vectors.shape[1]))
            if part.dimensions != vectors.shape[1]:
                raise DataError(
                    f"vectors of length {vectors.shape[1]} do not fit an index of {part.dimensions}",
                    hint="rebuild the index after a change of the embedder",
                )
            part.put_all(ids, vectors, list(zip(memory_ids, keys, strict=True)))

    def query(self, vectors: NDArray[np.float32], k: int, partition: str) -> list[list[IndexHit]]:
        """Return the `k` nearest of each query `[n, d]`, best first; equal scores by memory id."""
        with self._lock:
            part = self._partitions.get(partition)
            if part is None or not part.rows or k < 1:
                return [[] for _ in range(len(vectors))]
            return part.query(vectors, k)

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        """Remove all vectors of these memories."""
        with self._lock:
            part = self._partitions.get(partition)
            if part is not None:
                part.drop(set(memory_ids))

    def oldest(self, n: int, partition: str) -> tuple[list[str], NDArray[np.float32], list[tuple[str, str]]]:
        """Return ids, vectors and (memory id, key) of the at most `n` that were put first."""
        with self._lock:
            part = self._partitions.get(partition)
            if part is None:
                return [], np.zeros((0, 0), np.float32), []
            ids = list(islice(part.rows, n))
            rows = [part.rows[id_] for id_ in ids]
            vectors = np.array([part.vector(row) for row in rows], np.float32).reshape(-1, part.dimensions)
            return ids, vectors, [owner for row in rows if (owner := part.owners[row]) is not None]

    def remove(self, ids: Sequence[str], partition: str) -> None:
        """Remove vectors by their own ids."""
        with self._lock:
            part = self._partitions.get(partition)
            if part is not None:
                for id_ in ids:
                    part.remove(id_)
                if not part.rows:
                    del self._partitions[partition]

    def count(self, partition: str | None = None) -> int:
        """Return the number of vectors, of one partition or of all."""
        with self._lock:
            chosen = [partition] if partition is not None else list(self._partitions)
            return sum(len(self._partitions[name].rows) for name in chosen if name in self._partitions)

    def partitions(self) -> list[str]:
        """Return the names of the partitions."""
        with self._lock:
            return list(self._partitions)

    def forget(self, partition: str) -> None:
        """Remove everything of one partition."""
        with self._lock:
            self._partitions.pop(partition, None)

    def place(self, partition: str) -> str:
        """Return where the vectors of a partition lie, as in `stored`."""
        return partition

    def stored(self) -> set[tuple[str, str, str]]:
        """Return (`place` of the partition, memory id, key) of every vector."""
        with self._lock:
            return {
                (name, *owner)
                for name, part in self._partitions.items()
                for owner in part.owners
                if owner is not None
            }

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._partitions.clear()

    def close(self) -> None:
        """Forget the vectors; there is no file and no lock."""
        self.clear()


def build(settings: NoSettings, kit: Kit | Any) -> ExactIndex:
    """Make an empty index."""
    return ExactIndex()
