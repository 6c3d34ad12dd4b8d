"""The default vector index: Chroma, embedded under one process's lock or on a server by URL.

One collection per partition. Collection names carry the embedder's fingerprint, so vectors of different
embedders never meet. One record, the pointer, says which shelf of collections serves: a rebuild fills
another shelf beside it while recalls go on, and moves the pointer when it is done.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from agentkd.errors import AgentkdError, ConfigError, LockedError
from agentkd.memory.chroma import Chroma, is_gone
from agentkd.memory.index_exact import ExactIndex
from agentkd.memory.shelf import Shelf
from agentkd.schema import Value, canonical_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agentkd.protocols import IndexHit

__all__ = ["ChromaIndex", "ChromaSettings", "build"]

T = TypeVar("T")

_ABANDONED_SECONDS = 86_400.0  # an unfinished shelf of a server this old belongs to nobody
_TUNABLE = ("ef_search", "num_threads")  # may change without building the graph anew


class ChromaSettings(Value):
    """`[index.chroma]`: where Chroma lives and how its graph is built."""

    url: str = ""
    """Address of a server such as `http://127.0.0.1:8000`; empty embeds Chroma in this process."""
    token_env: str = ""
    """Environment variable with the server's bearer token."""
    path: str = ""
    """Folder of the embedded index; empty is `index` in the workspace."""
    namespace: str = ""
    """Keeps workspaces on one server apart; empty derives it from the place of the ledger."""
    when_locked: Literal["error", "exact"] = "error"
    """What a second process does with an embedded index: refuse, or search exactly in its own memory."""
    ef_search: int = Field(default=100, ge=10, le=10_000)
    """Candidates that a query looks at: more is slower and finds more."""
    ef_construction: int = Field(default=100, ge=10, le=10_000)
    """Candidates looked at while inserting."""
    max_neighbors: int = Field(default=16, ge=4, le=256)
    """Edges per vector (M)."""
    batch_size: int = Field(default=100, ge=2, le=100_000)
    """Vectors that wait outside the graph, compared one by one, before they are inserted together."""
    sync_threshold: int = Field(default=1000, ge=2, le=1_000_000)
    """Vectors after which the graph is written to disk; the log holds what is newer."""
    num_threads: int = Field(default=0, ge=0, le=256)
    """Threads that insert and search; 0 takes all cores."""
    waiting: int = Field(default=100_000, ge=0)
    """Vectors of an embedded index that may wait in memory, found by comparing all, until there is time to
    insert them; 0 inserts at once, as with a server."""


class ChromaIndex:
    """Approximate nearest neighbours by cosine on HNSW graphs; safe for the threads of one process."""

    def __init__(
        self,
        settings: ChromaSettings,
        *,
        fingerprint: str,
        path: Path | None = None,
        namespace: str = "",
    ) -> None:
        """Open the index.

        Args:
            settings: Server or graph settings.
            fingerprint: The embedder's; another one opens another, empty index.
            path: Folder of the embedded index; needed unless `settings.url` is set.
            namespace: Keeps workspaces on one server apart.

        Raises:
            LockedError: another process has the folder open.
            StoreError: the server or the files cannot be used.
        """
        self._graph = _graph(settings)
        shape = {name: value for name, value in self._graph.items() if name not in _TUNABLE}
        self._tag = _hash(canonical_json(shape))
        self._workspace = f"agentkd-{_hash(namespace)}-"
        self._family = f"{self._workspace}{_hash(fingerprint)}-"
        self._pointer = f"{self._family}current"
        self._guard = threading.RLock()
        self._waiting = 0 if settings.url else settings.waiting
        self._chroma = Chroma(settings, path)
        self.is_shared = self._chroma.is_server
        """Whether other processes write to it: then one at a time follows the ledger."""
        self.is_outdated = False
        """Whether its graph was built with other settings; it serves until a rebuild is done."""
        try:
            with self._chroma.translated():
                self._serve(self._open())
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> str:
        """Name of what is stored; another after `clear` and after a rebuild."""
        return self._shelf.identity

    def add(
        self,
        ids: Sequence[str],
        vectors: NDArray[np.float32],
        memory_ids: Sequence[str],
        keys: Sequence[str],
        partition: str,
    ) -> None:
        """Insert or replace vectors `[len(ids), d]` of unit length."""
        self._on_shelf(lambda shelf: shelf.add(ids, vectors, memory_ids, keys, partition))

    def query(self, vectors: NDArray[np.float32], k: int, partition: str) -> list[list[IndexHit]]:
        """Return about the `k` nearest of each query `[n, d]`, best first; equal scores by memory id."""
        return self._on_shelf(lambda shelf: shelf.query(vectors, k, partition))

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        """Remove all vectors of these memories."""
        self._on_shelf(lambda shelf: shelf.delete(memory_ids, partition))

    def waiting(self) -> int:
        """Return how many vectors wait in memory: found, but lost with the process."""
        return self._shelf.waiting()

    def settle(self, most: int) -> int:
        """Insert at most `most` of the vectors that wait; returns how many still do."""
        return self._on_shelf(lambda shelf: shelf.settle(most))

    def count(self) -> int:
        """Return the number of vectors."""
        return self._on_shelf(Shelf.count)

    def vectors(self) -> Iterator[tuple[list[tuple[str, str]], NDArray[np.float32]]]:
        """Yield (memory id, key) and the vectors `[n, d]` that are stored, in batches."""
        with self._guard, self._chroma.translated():
            yield from self._shelf.vectors()

    def stored(self) -> set[tuple[str, str, str]]:
        """Return (`place` of the partition, memory id, key) of every vector."""
        return self._on_shelf(Shelf.stored)

    def place(self, partition: str) -> str:
        """Return where the vectors of a partition lie, as in `stored`."""
        return self._shelf.name_of(partition)

    def clear(self) -> None:
        """Remove everything and take a new identity, so that the next projection begins anew."""
        with self._guard, self._chroma.translated():
            self._switch(Shelf.make(self._chroma, self._family, self._graph, self._tag))

    def aside(self, *, resume: bool = False) -> Shelf:
        """Return an empty shelf to be filled beside the one in use.

        `resume` goes on with one that a killed rebuild left (embedded only: a server's may be in work).
        """
        with self._guard, self._chroma.translated():
            for prefix, facts in self._unfinished():
                if resume and not self.is_shared and facts.get("graph") == self._tag:
                    return Shelf(self._chroma, prefix, str(facts["identity"]), self._graph)
                if not self.is_shared or time.time() - float(facts.get("begun", 0)) > _ABANDONED_SECONDS:
                    self._chroma.drop(self._chroma.names(prefix))
            return Shelf.make(self._chroma, self._family, self._graph, self._tag)

    def switch(self, shelf: Shelf) -> None:
        """Let a filled shelf serve from now on and drop the one that did."""
        with self._guard, self._chroma.translated():
            self._switch(shelf)

    def refresh(self) -> None:
        """See what other clients of a server did: a switch, new partitions."""
        if self.is_shared:
            with self._guard, self._chroma.translated():
                self._follow_pointer()

    def unfinished(self) -> int:
        """Return how many shelves are neither in use nor finished."""
        with self._guard, self._chroma.translated():
            return len(self._unfinished())

    def drop_unfinished(self) -> int:
        """Drop what rebuilds left half-done and return their number; on a server, only after a day."""
        with self._guard, self._chroma.translated():
            found = [
                prefix
                for prefix, facts in self._unfinished()
                if not self.is_shared or time.time() - float(facts.get("begun", 0)) > _ABANDONED_SECONDS
            ]
            for prefix in found:
                self._chroma.drop(self._chroma.names(prefix))
            return len(found)

    def interrupt(self) -> None:
        """Refuse every further use but `close`, so that a rebuild in the background ends."""
        self._chroma.interrupt()

    def close(self) -> None:
        """Insert what waits, release files and lock; safe to call twice."""
        with self._guard:
            shelf = getattr(self, "_shelf", None)
            if shelf is not None and shelf.waiting():
                with suppress(AgentkdError):  # an interrupted index: the ledger still has it
                    shelf.settle(shelf.waiting())
            self._chroma.close()

    def _open(self) -> Shelf:
        """Return the shelf in use; makes one where there is none, and drops what is another embedder's."""
        names = self._chroma.names(self._workspace)
        if self._pointer not in names:
            if not self.is_shared:
                self._chroma.drop(names)
            fresh = Shelf.make(self._chroma, self._family, self._graph, self._tag)
            self._chroma.make(self._pointer, metadata=self._facts(fresh))
        shelf = self._pointed_at()
        self._tune(shelf)
        return shelf

    def _serve(self, shelf: Shelf) -> None:
        shelf.most_waiting = self._waiting
        self._shelf = shelf

    def _pointed_at(self) -> Shelf:
        facts = self._chroma.collection(self._pointer).metadata or {}
        self.is_outdated = facts.get("graph") != self._tag
        return Shelf(self._chroma, str(facts["prefix"]), str(facts["identity"]), self._graph)

    def _facts(self, shelf: Shelf) -> dict[str, str]:
        return {"prefix": shelf.prefix, "identity": shelf.identity, "graph": self._tag}

    def _switch(self, shelf: Shelf) -> None:
        before = self._pointed_at() if self.is_shared else self._shelf
        self._chroma.collection(self._pointer).modify(metadata=self._facts(shelf))
        self._serve(shelf)
        self.is_outdated = False
        shelf.forget()
        self._chroma.drop(self._chroma.names(before.prefix))

    def _unfinished(self) -> list[tuple[str, dict[str, Any]]]:
        names = self._chroma.names(self._family)
        prefixes = dict.fromkeys(name.rpartition("-")[0] + "-" for name in names if name.endswith("-meta"))
        orphans = {name[: len(self._family) + 9]: None for name in names if name != self._pointer}
        found: list[tuple[str, dict[str, Any]]] = []
        for prefix in orphans:
            if prefix != self._shelf.prefix:
                marker = self._chroma.collection(f"{prefix}meta") if prefix in prefixes else None
                found.append((prefix, dict((marker and marker.metadata) or {})))
        return found

    def _tune(self, shelf: Shelf) -> None:
        """Give collections of an earlier setting the present width of the search."""
        wanted = {name: self._graph[name] for name in _TUNABLE if name in self._graph}

        def tune(collection: Any) -> None:
            has = (collection.configuration_json or {}).get("hnsw") or {}
            if any(has.get(name) != value for name, value in wanted.items()):
                collection.modify(configuration={"hnsw": wanted})

        if not self.is_shared:
            shelf.each(tune)

    def _follow_pointer(self) -> None:
        shelf = self._pointed_at()
        if shelf.prefix == self._shelf.prefix:
            self._shelf.look_again()
        else:
            self._serve(shelf)

    def _on_shelf(self, work: Callable[[Shelf], T]) -> T:
        """Work on the shelf in use; once more where it was switched or dropped meanwhile."""
        with self._chroma.translated():
            shelf = self._shelf
            try:
                return work(shelf)
            except Exception as error:
                if not is_gone(error):
                    raise
            with self._guard:
                if self.is_shared:
                    self._follow_pointer()
                self._shelf.forget()
            return work(self._shelf)


def build(settings: ChromaSettings, kit: Any) -> ChromaIndex | ExactIndex:
    """Open the index for the fingerprint of the kit's embedder, by default below `kit.root`."""
    root = getattr(kit, "root", None)
    if not (settings.url or settings.path or root):
        raise ConfigError("the index has no folder", hint="set `path` or `url` in `[index.chroma]`")
    try:
        return ChromaIndex(
            settings,
            fingerprint=kit.embedder().fingerprint,
            path=Path(settings.path).expanduser() if settings.path else root and Path(root) / "index",
            namespace=settings.namespace or (settings.url and (kit.settings.ledger or str(root))),
        )
    except LockedError:
        if settings.when_locked == "error":
            raise
        return ExactIndex()


def _graph(settings: ChromaSettings) -> dict[str, Any]:
    """Return Chroma's configuration of a graph; 0 threads leaves the choice to Chroma."""
    names = ("ef_search", "ef_construction", "max_neighbors", "batch_size", "sync_threshold", "num_threads")
    values = {name: getattr(settings, name) for name in names}
    return {"space": "cosine", **{name: value for name, value in values.items() if value}}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
