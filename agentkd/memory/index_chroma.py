"""The default vector index: Chroma, embedded under one process's lock or on a server by URL.

One collection per partition. Collection names carry the embedder's fingerprint and the settings of
the graph, so vectors of different embedders never meet and a changed setting makes a new index. No
collection may bring an embedding function along: its configuration is code that Chroma would run.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field

from agentkd.errors import AgentkdError, ConfigError, MissingExtraError, StoreError
from agentkd.memory.index_exact import VectorHit
from agentkd.memory.lock import IndexLock
from agentkd.schema import Value, canonical_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agentkd.protocols import IndexHit

__all__ = ["ChromaIndex", "ChromaSettings", "build"]

_BATCH = 1000  # vectors per write
_HITS = 50_000  # results per read over all queries: Chroma hands each one to SQLite as a variable
_MARK = "\x1f"  # between the parts of a stored id; hashes and key names never hold it


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
    ef_search: int = Field(default=200, ge=10, le=10_000)
    """Candidates that a query looks at: more is slower and finds more."""
    ef_construction: int = Field(default=100, ge=10, le=10_000)
    """Candidates looked at while inserting."""
    max_neighbors: int = Field(default=16, ge=4, le=256)
    """Edges per vector (M)."""


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
        graph = {
            "space": "cosine",
            "ef_search": settings.ef_search,
            "ef_construction": settings.ef_construction,
            "max_neighbors": settings.max_neighbors,
        }
        tag = hashlib.sha256(canonical_json([fingerprint, graph]).encode()).hexdigest()[:16]
        self._where = settings.url or str(path)
        self._family = f"agentkd-{hashlib.sha256(namespace.encode()).hexdigest()[:12]}-"
        self._prefix = f"{self._family}{tag}-"
        self._graph = graph
        self._guard = threading.RLock()
        self._collections: dict[str, Any] = {}
        self._present: frozenset[str] = frozenset()
        self._looked_at = 0.0
        self._is_server = bool(settings.url)
        self._lock = None if settings.url or path is None else IndexLock(path / ".lock")
        self._client: Any = None
        try:
            with self._translated():
                self._client = _connect(settings, path)
                self.identity = self._prepare()
        except BaseException:
            self.close()
            raise

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
        owners = [{"memory": memory_id} for memory_id in memory_ids]

        def upsert(collection: Any) -> None:
            for start in range(0, len(stored), _BATCH):
                part = slice(start, start + _BATCH)
                collection.upsert(ids=stored[part], embeddings=vectors[part], metadatas=owners[part])

        if stored:
            self._with_collection(partition, upsert, create=True)

    def query(self, vectors: NDArray[np.float32], k: int, partition: str) -> list[list[IndexHit]]:
        """Return about the `k` nearest of each query `[n, d]`, best first; equal scores by memory id."""

        def search(collection: Any) -> list[list[IndexHit]]:
            step = max(1, _HITS // k)
            found: list[list[IndexHit]] = []
            for start in range(0, len(vectors), step):
                answer = collection.query(
                    query_embeddings=vectors[start : start + step], n_results=k, include=["distances"]
                )
                found += map(_hits, answer["ids"], answer["distances"])
            return found

        empty: list[list[IndexHit]] = [[] for _ in range(len(vectors))]
        return (self._with_collection(partition, search) if k > 0 and empty else None) or empty

    def delete(self, memory_ids: Sequence[str], partition: str) -> None:
        """Remove all vectors of these memories."""
        wanted = list(memory_ids)

        def remove(collection: Any) -> None:
            for start in range(0, len(wanted), _BATCH):
                collection.delete(where={"memory": {"$in": wanted[start : start + _BATCH]}})

        self._with_collection(partition, remove)

    def count(self) -> int:
        """Return the number of vectors."""
        with self._translated():
            return sum(
                self._checked(name).count() for name in self._names() if name.startswith(f"{self._prefix}p-")
            )

    def clear(self) -> None:
        """Remove everything and take a new identity, so that the next projection begins anew."""
        with self._guard, self._translated():
            self._drop(self._prefix)
            self.identity = self._prepare()

    def close(self) -> None:
        """Release files and lock; safe to call twice."""
        with self._guard:
            client, self._client = self._client, None
            self._collections.clear()
            if client is not None:
                client.close()
            if self._lock is not None:
                self._lock.release()

    def _prepare(self) -> str:
        """Return the identity of what is stored, after clearing what has none or another embedder."""
        marker = f"{self._prefix}meta"
        if marker not in self._names():
            self._drop(self._prefix if self._is_server else self._family)
            token = {"identity": uuid.uuid4().hex}
            self._client.get_or_create_collection(marker, embedding_function=None, metadata=token)
        self._present = frozenset(self._names())
        return str((self._checked(marker).metadata or {}).get("identity", ""))

    def _drop(self, prefix: str) -> None:
        # The marker goes first: a killed clear leaves an index without identity, which is cleared again.
        doomed = [name for name in self._names() if name.startswith(prefix)]
        for name in sorted(doomed, key=lambda name: not name.endswith("-meta")):
            self._client.delete_collection(name)
        self._collections.clear()
        self._present = frozenset()

    def _names(self) -> list[str]:
        if self._lock is not None:
            self._lock.check()
        if self._client is None:
            raise StoreError(f"the index `{self._where}` is closed", hint="open the workspace again")
        names: list[str] = []
        page = 200
        while True:
            found = [c.name for c in self._client.list_collections(limit=page, offset=len(names))]
            names += found
            if len(found) < page:
                return names

    def _with_collection(self, partition: str, work: Callable[[Any], Any], create: bool = False) -> Any:
        """Run `work` on a partition's collection; None where there is none to be made."""
        with self._translated():
            for is_last in (False, True):
                collection = self._collection(partition, create)
                if collection is None:
                    return None
                try:
                    return work(collection)
                except Exception as error:
                    # Another client of the server may have cleared the index meanwhile.
                    if is_last or not self._is_server or type(error).__name__ != "NotFoundError":
                        raise
                    with self._guard:
                        self._collections.clear()
                        self._present, self._looked_at = frozenset(), 0.0
        return None

    def _collection(self, partition: str, create: bool) -> Any:
        name = f"{self._prefix}p-{hashlib.sha256(partition.encode()).hexdigest()[:24]}"
        if self._lock is not None:
            self._lock.check()
        known = self._collections.get(name)
        if known is not None:
            return known
        with self._guard:
            if not self._has(name):
                if not create:
                    return None
                self._client.get_or_create_collection(
                    name, embedding_function=None, configuration={"hnsw": self._graph}
                )
                self._present |= {name}
            self._collections[name] = self._checked(name)
            return self._collections[name]

    def _has(self, name: str) -> bool:
        """Whether a collection is there; what other clients of a server made is seen within a second."""
        is_stale = self._is_server and time.monotonic() - self._looked_at > 1.0
        if name not in self._present and is_stale:
            self._present, self._looked_at = frozenset(self._names()), time.monotonic()
        return name in self._present

    def _checked(self, name: str) -> Any:
        collection = self._client.get_collection(name, embedding_function=None)
        schema = getattr(getattr(collection, "_model", None), "serialized_schema", None)
        for function in _embedding_functions([collection.configuration_json, schema]):
            if function.get("type") not in ("legacy", "unknown") or "name" in function:
                raise StoreError(
                    f"collection `{name}` in `{self._where}` names the embedding function "
                    f"`{function.get('name', 'unknown')}`, which Chroma would run; agentkd made no such one",
                    hint="delete the index folder: it is rebuilt from the ledger",
                    collection=name,
                )
        return collection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except AgentkdError:
            raise
        except Exception as error:  # Chroma raises its own, pydantic's, httpx's and the bindings' classes
            first = str(error).partition("\n")[0]
            raise StoreError(
                f"the index `{self._where}` refused: {type(error).__name__}: {first}",
                hint="is the server up?" if self._is_server else "delete the index folder: it is rebuilt",
            ) from error


def build(settings: ChromaSettings, kit: Any) -> ChromaIndex:
    """Open the index for the fingerprint of the kit's embedder, by default below `kit.root`."""
    root = getattr(kit, "root", None)
    if not (settings.url or settings.path or root):
        raise ConfigError("the index has no folder", hint="set `path` or `url` in `[index.chroma]`")
    return ChromaIndex(
        settings,
        fingerprint=kit.embedder().fingerprint,
        path=Path(settings.path).expanduser() if settings.path else root and Path(root) / "index",
        namespace=settings.namespace or (settings.url and (kit.settings.ledger or str(root))),
    )


def _connect(settings: ChromaSettings, path: Path | None) -> Any:
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError as error:
        raise MissingExtraError.of("chromadb", "all", "the index `chroma`") from error
    if not settings.url:
        if path is None:
            raise ConfigError("an embedded index needs a folder", hint="pass `path`, or set `url`")
        return chromadb.PersistentClient(str(path / "chroma"), settings=Settings(anonymized_telemetry=False))
    address = urlsplit(settings.url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(f"`{settings.url}` is no address", hint="write http://host:port", key="url")
    token = os.environ.get(settings.token_env, "") if settings.token_env else ""
    if settings.token_env and not token:
        raise ConfigError(f"the environment variable `{settings.token_env}` is empty", key="token_env")
    is_tls = address.scheme == "https"
    return chromadb.HttpClient(
        host=address.hostname,
        port=address.port or (443 if is_tls else 8000),
        ssl=is_tls,
        headers={"Authorization": f"Bearer {token}"} if token else None,
        settings=Settings(anonymized_telemetry=False),
    )


def _hits(ids: Sequence[str], distances: Sequence[float]) -> list[IndexHit]:
    hits: list[IndexHit] = []
    for id_, distance in zip(ids, distances, strict=True):
        _, memory_id, key = id_.split(_MARK)
        hits.append(VectorHit(memory_id, key, max(-1.0, min(1.0, 1.0 - distance))))
    hits.sort(key=lambda hit: (-hit.score, hit.memory_id, hit.key))
    return hits


def _embedding_functions(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every embedding function that a stored configuration names, however deep."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "embedding_function" and isinstance(value, dict):
                yield value
            else:
                yield from _embedding_functions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _embedding_functions(value)
