"""Open an embedded index and search each of its collections, in a process of its own: damage can end it.

    python -m agentkd.memory.probe FOLDER

Ends by a signal where Chroma does; with 0 in every other case, also where the index refuses in good order or
another process owns it: who starts this looks for itself then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from agentkd.memory.chroma import Chroma
from agentkd.memory.index_chroma import ChromaSettings

__all__ = ["main"]

_NEAREST = 10


def main(arguments: Sequence[str]) -> int:
    """Search every collection of the index in a folder by one of its own vectors."""
    with suppress(Exception), closing(Chroma(ChromaSettings(), Path(arguments[0]))) as chroma:
        for name in chroma.names(""):
            collection = chroma.collection(name)
            found = collection.get(limit=1, include=["embeddings"])
            if found["ids"]:
                collection.query(query_embeddings=found["embeddings"], n_results=_NEAREST)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
