"""One build of a Chroma index: a collection per partition, under a prefix and an identity of its own.

What is added waits in memory, where it is searched one by one, and is written to the collections in large
batches by `settle`: a hundred vectors cost Chroma as many flushes of the disk as a thousand. A process that
dies loses what waited; the ledger's mark says from where it has to be read again.

A rebuild fills a second shelf beside the one in use; which of them serves is one record, so a killed
rebuild leaves the old one in use and a finished one is switched to at once.
"""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from agentkd.memory.chroma import Chroma
from agentkd.memory.index_exact import ExactIndex, VectorHit, cosine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agentkd.protocols import IndexHit

__all__ = ["Shelf"]

_BATCH = 1000  # vectors per write
_HITS = 50_000  # results per read over all queries: Chroma hands each one to SQLite as a variable
_MARK = "\x1f"  # between the parts of a stored id; hashes and key names never hold it
_STALE_SECONDS = 1.0
_SMALL = 10_000  # vectors of a partition that are kept in memory too: comparing all is quicker than a graph


class Shelf:
    """The collections below one prefix; safe for the threads of one process."""

    def __init__(self, chroma: Chroma, prefix: str, identity: str, graph: Mapping[str, Any]) -> None:
        """Look at a shelf that is there; `make` makes one."""
        self.prefix = prefix
        self.identity = identity
        self.is_shared = chroma.is_server
        self._chroma = chroma
        self._connection = chroma.connection
        self._graph = graph
        self._guard = threading.RLock()
        self._collections: dict[str, Any] = {}
        self._present: frozenset[str] = frozenset()
        self._looked_at: float | None = None
        self._small = ExactIndex()
        self._is_small: dict[str, bool] = {}
        self._tail = ExactIndex()
        self.most_waiting = 0
        """Vectors that may wait in memory; 0 writes all of them at once."""

    @classmethod
    def make(cls, chroma: Chroma, family: str, graph: Mapping[str, Any], tag: str) -> Self:
        """Make an empty shelf whose marker says for which graph it is and when it was begun."""
        prefix, identity = f"{family}{uuid.uuid4().hex[:8]}-", uuid.uuid4().hex
        facts = {"identity": identity, "graph": tag, "begun": time.time()}
        chroma.make(f"{prefix}meta", metadata=facts)
        return cls(chroma, prefix, identity, graph)

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        memory_ids: Sequence[str],
        keys: Sequence[str],
        partition: str,
    ) -> None:
        """Insert or replace vectors `[len(ids), d]` of unit length."""
        stored = [_MARK.join(parts) for parts in zip(ids, memory_ids, keys, strict=True)]
        if not stored:
            return
        with self._guard, self._chroma.translated():
            collection: Any = self._collection(partition, create=True)
            name = collection.name
            if not self.most_waiting:
                self._write(collection, stored, vectors, memory_ids)
            else:
                self._tail.add(stored, vectors, memory_ids, keys, name)
            if self._is_small.get(name):
                self._small.add(stored, vectors, memory_ids, keys, name)
                self._is_small[name] = self._small.count(name) <= _SMALL
                if not self._is_small[name]:
                    self._small.forget(name)
        while self.waiting() > self.most_waiting:
            self.settle(_BATCH)

    def waiting(self) -> int:
        """Return the number of vectors that are not in their collection yet."""
        return self._tail.count()

    def settle(self, most: int) -> int:
        """Write at most `most` waiting vectors to their collections; returns how many still wait."""
        with self._guard, self._chroma.translated():
            self._check()
            for name in self._tail.partitions():
                ids, vectors, owners = self._tail.oldest(most, name)
                if ids:
                    collection = self._collections.get(name) or self._chroma.make(name, graph=self._graph)
                    self._write(collection, ids, vectors, [memory_id for memory_id, _ in owners])
                    self._tail.remove(ids, name)
                    most -= len(ids)
        return self.waiting()

    def _write(
        self, collection: Any, ids: Sequence[str], vectors: NDArray[np.float32], memory_ids: Sequence[str]
    ) -> None:
        owners = [{"memory": memory_id} for memory_id in memory_ids]
        for start in range(0, len(ids), _BATCH):
            self._chroma.check()
            part = slice(start, start + _BATCH)
            collection.upsert(ids=ids[part], embeddings=vectors[part], metadatas=owners[part])

    def query(self, vectors: NDArray[np.float32], k: int, partition: str) -> list[list[IndexHit]]:
        """Return about the `k` nearest of each query `[n, d]`, best first; equal scores by memory id."""
        collection = self._collection(partition) if k > 0 and len(vectors) else None
        if collection is None:
            return [[] for _ in range(len(vectors))]
        if self._in_memory(collection):
            near = self._small.query(vectors, k, collection.name)
            if self._is_small.get(collection.name):  # else it outgrew memory meanwhile
                return near
        waiting = self._tail.query(vectors, k, collection.name)  # first: what is written meanwhile is in both
        step = max(1, _HITS // k)
        found: list[list[IndexHit]] = []
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            answer = collection.query(query_embeddings=part, n_results=k, include=["distances"])
            found += map(_hits, answer["ids"], answer["distances"])
        return [_united(*both, k) if both[1] else both[0] for both in zip(found, waiting, strict=True)]

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        """Remove all vectors of these memories."""
        with self._guard, self._chroma.translated():
            collection = self._collection(partition)
            if collection is not None:
                self._small.delete(memory_ids, collection.name)
                self._tail.delete(memory_ids, collection.name)
            for start in range(0, len(memory_ids) if collection is not None else 0, _BATCH):
                wanted = list(memory_ids[start : start + _BATCH])
                collection.delete(where={"memory": {"$in": wanted}})

    def names(self) -> list[str]:
        """Return the names of the partitions' collections."""
        return self._chroma.names(f"{self.prefix}p-")

    def count(self) -> int:
        """Return the number of vectors; writes those that wait."""
        self.settle(self.waiting())
        return sum(self._chroma.collection(name).count() for name in self.names())

    def stored(self) -> set[tuple[str, str, str]]:
        """Return (collection, memory id, key) of every vector: what a check compares with the ledger."""
        self.settle(self.waiting())
        found: set[tuple[str, str, str]] = set()
        for name in self.names():
            collection, offset = self._chroma.collection(name), 0
            while ids := collection.get(include=[], limit=_BATCH * 5, offset=offset)["ids"]:
                found.update((name, *id_.split(_MARK)[1:]) for id_ in ids)
                offset += len(ids)
        return found

    def vectors(self) -> Iterator[tuple[list[tuple[str, str]], NDArray[np.float32]]]:
        """Yield (memory id, key) and the stored vectors `[n, d]`, in batches; writes those that wait."""
        self.settle(self.waiting())
        for name in self.names():
            collection, offset = self._chroma.collection(name), 0
            while (found := collection.get(include=["embeddings"], limit=_BATCH, offset=offset))["ids"]:
                owners = [id_.split(_MARK) for id_ in found["ids"]]
                yield [(memory_id, key) for _, memory_id, key in owners], found["embeddings"]
                offset += len(owners)

    def name_of(self, partition: str) -> str:
        """Return the name of a partition's collection: a hash, so that no name reaches into another."""
        return f"{self.prefix}p-{hashlib.sha256(partition.encode()).hexdigest()[:24]}"

    def each(self, change: Callable[[Any], None]) -> None:
        """Change every collection of the shelf."""
        for name in self.names():
            change(self._chroma.collection(name))

    def forget(self) -> None:
        """Look again at what is there: another client of the server may have made or dropped some."""
        with self._guard:
            self._collections.clear()
            self._is_small.clear()
            self._small.clear()
            self._present, self._looked_at = frozenset(), None

    def look_again(self) -> None:
        """Believe no longer that an absent partition is absent."""
        self._looked_at = None

    def _collection(self, partition: str, create: bool = False) -> Any:
        """Return a partition's collection; None where there is none and none is to be made."""
        name = self.name_of(partition)
        self._check()
        known = self._collections.get(name)
        if known is not None:
            return known
        with self._guard:
            if create:
                self._collections[name] = self._chroma.make(name, graph=self._graph)
                self._present |= {name}
            elif self._has(name):
                self._collections[name] = self._chroma.collection(name)
            return self._collections.get(name)

    def _check(self) -> None:
        """Refuse where the door is closed; forget the collections of a client that was thrown away."""
        self._chroma.check()
        if self._connection != self._chroma.connection:
            with self._guard:
                self._collections.clear()
                self._connection = self._chroma.connection

    def _in_memory(self, collection: Any) -> bool:
        """Whether all vectors of a small partition are in memory; reads them for its first query.

        Other clients of a server write what this process would not see, so nothing of theirs is kept.
        """
        if self.is_shared:
            return False
        name = collection.name
        known = self._is_small.get(name)
        if known is None:
            with self._guard:
                if name not in self._is_small:  # said only once they are there: other threads do not wait
                    self._is_small[name] = self._read_small(collection)
                return self._is_small[name]
        return known

    def _read_small(self, collection: Any) -> bool:
        name = collection.name
        if collection.count() + self._tail.count(name) > _SMALL:
            return False
        found = collection.get(include=["embeddings"])
        if found["ids"]:
            _, memory_ids, keys = zip(*(id_.split(_MARK) for id_ in found["ids"]), strict=True)
            self._small.add(found["ids"], found["embeddings"], memory_ids, keys, name)
        ids, vectors, owners = self._tail.oldest(_SMALL, name)
        self._small.add(ids, vectors, [owner[0] for owner in owners], [owner[1] for owner in owners], name)
        return True

    def _has(self, name: str) -> bool:
        """Whether a collection is there; what other clients of a server made is seen within a second."""
        at = self._looked_at
        is_stale = at is None or (self.is_shared and time.monotonic() - at > _STALE_SECONDS)
        if name not in self._present and is_stale:
            self._present, self._looked_at = frozenset(self.names()), time.monotonic()
        return name in self._present


def _united(written: list[IndexHit], waiting: list[IndexHit], k: int) -> list[IndexHit]:
    """Return the `k` best of two lists; what is in both counts once, as it waits."""
    newer = {(hit.memory_id, hit.key) for hit in waiting}
    hits = [*waiting, *(hit for hit in written if (hit.memory_id, hit.key) not in newer)]
    hits.sort(key=lambda hit: (-hit.score, hit.memory_id, hit.key))
    return hits[:k]


def _hits(ids: Sequence[str], distances: Sequence[float]) -> list[IndexHit]:
    hits: list[IndexHit] = []
    for id_, distance in zip(ids, distances, strict=True):
        _, memory_id, key = id_.split(_MARK)
        hits.append(VectorHit(memory_id, key, cosine(1.0 - distance)))
    hits.sort(key=lambda hit: (-hit.score, hit.memory_id, hit.key))
    return hits
