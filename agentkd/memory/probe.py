"""Open an embedded index and search all of it, in a process of its own: damaged files can end a process.

    python -m agentkd.memory.probe FOLDER

Ends by a signal where Chroma does; with 0 in every other case, also where the index refuses in good order or
another process owns it: who starts this looks for itself then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agentkd.errors import AgentkdError
from agentkd.memory.lock import IndexLock

__all__ = ["main"]

_NEAREST = 10


def main(arguments: Sequence[str]) -> int:
    """Search every collection of the index in a folder by one of its own vectors."""
    folder = Path(arguments[0])
    try:
        lock = IndexLock(folder / ".lock")
    except AgentkdError:
        return 0
    try:
        with suppress(Exception):
            _search(folder / "chroma")
    finally:
        lock.release()
    return 0


def _search(folder: Path) -> None:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    for one in client.list_collections():
        collection = client.get_collection(one.name, embedding_function=None)
        found = collection.get(limit=1, include=["embeddings"])
        if found["ids"]:
            collection.query(query_embeddings=found["embeddings"], n_results=_NEAREST)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
