"""Vectors on disk by content: a text is embedded once per machine and embedder.

One SQLite file per embedder fingerprint. The file is disposable: what cannot be read (damage, a
full or read-only disk) is embedded again, and a file that is no database is replaced.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agentkd.schema.text import whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.protocols import Embedder

__all__ = ["CachedEmbedder", "VectorCache"]

_TABLE = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, seq INTEGER, sum INTEGER, vector BLOB)"
_CHUNK = 500  # keys in one IN (...) list


class VectorCache:
    """A bounded store of vectors in one file; safe for several threads and processes."""

    def __init__(self, path: Path, dimensions: int, max_vectors: int = 200_000) -> None:
        """Open the file, making it where it is missing.

        Args:
            path: Database file.
            dimensions: Length of a vector; others are ignored.
            max_vectors: Oldest vectors beyond this number are dropped (4 x dimensions bytes each).
        """
        self._dimensions = dimensions
        self._max_vectors = max_vectors
        self._lock = threading.Lock()
        self._connection = _open(path)

    def get(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of those texts that are known and undamaged."""
        by_key = {_key(text): text for text in texts}
        keys, found = list(by_key), {}
        for start in range(0, len(keys), _CHUNK):
            for key, checksum, blob in self._rows(keys[start : start + _CHUNK]):
                vector = np.frombuffer(blob, np.float32)
                if len(vector) == self._dimensions and zlib.crc32(blob) == checksum:
                    found[by_key[key]] = vector
        return found

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep vectors `[len(texts), dimensions]`; a disk that refuses costs the cache, not the caller."""
        blobs = [vector.tobytes() for vector in np.ascontiguousarray(vectors, np.float32)]
        rows = [(_key(text), zlib.crc32(blob), blob) for text, blob in zip(texts, blobs, strict=True)]
        insert = "INSERT OR REPLACE INTO vectors SELECT ?, coalesce(max(seq), 0) + 1, ?, ? FROM vectors"
        trim = "DELETE FROM vectors WHERE seq <= (SELECT max(seq) FROM vectors) - ?"
        with self._lock:
            try:
                with self._connection:
                    self._connection.executemany(insert, rows)
                    self._connection.execute(trim, (self._max_vectors,))
            except sqlite3.Error:
                return

    def __len__(self) -> int:
        """Return the number of vectors."""
        with self._lock:
            try:
                return int(self._connection.execute("SELECT count(*) FROM vectors").fetchone()[0])
            except sqlite3.Error:
                return 0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _rows(self, keys: Sequence[bytes]) -> list[tuple[bytes, int, bytes]]:
        marks = ",".join("?" * len(keys))
        with self._lock:
            try:
                return self._connection.execute(
                    f"SELECT key, sum, vector FROM vectors WHERE key IN ({marks})", keys
                ).fetchall()
            except sqlite3.Error:
                return []


class CachedEmbedder:
    """An embedder that looks into a cache first and embeds each distinct text once."""

    def __init__(self, inner: Embedder, cache: VectorCache) -> None:
        self._inner = inner
        self._cache = cache
        self.fingerprint = inner.fingerprint
        self.dimensions = inner.dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors, `[len(texts), dimensions]`."""
        distinct = list(dict.fromkeys(texts))
        known = self._cache.get(distinct)
        missing = [text for text in distinct if text not in known]
        if missing:
            fresh = self._inner.embed(missing)
            self._cache.put(missing, fresh)
            known.update(zip(missing, fresh, strict=True))
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row] = known[text]
        return vectors

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text; about a quarter of its letters where nothing counts them."""
        count = getattr(self._inner, "count_tokens", None)
        return int(count(text)) if count is not None else -(-len(text) // 4)

    def close(self) -> None:
        """Close the cache's file."""
        self._cache.close()


def _key(text: str) -> bytes:
    return hashlib.blake2b(whole(text).encode(), digest_size=16).digest()


def _open(path: Path) -> sqlite3.Connection:
    """Open the file; one that is damaged is replaced, and where nothing can be written memory serves."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _prepared(str(path))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            for left in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                left.unlink(missing_ok=True)
            return _prepared(str(path))
    except (OSError, sqlite3.Error):
        return _prepared(":memory:")


def _prepared(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(address, timeout=10.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        with connection:
            connection.execute(_TABLE)
            connection.execute("CREATE INDEX IF NOT EXISTS ix_vectors_seq ON vectors (seq)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
