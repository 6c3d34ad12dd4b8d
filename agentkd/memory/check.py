"""Compare the indexes with the ledger, vector by vector: counts alone hide a loss beside a leftover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentkd.memory.projection import INDEXED, key_texts
from agentkd.memory.scope import partition_of
from agentkd.schema import Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger
    from agentkd.memory.lexical import LexicalIndex

__all__ = ["IndexCheck", "check_index"]

_NAMED = 20  # ids that a check lists


class IndexCheck(Value):
    """How far the indexes hold what the ledger calls for, once they have followed all its events."""

    n_memories: int
    """Memories that may be recalled."""
    n_vectors: int
    """Vectors that the ledger calls for."""
    n_missing: int
    """Vectors that the index lacks."""
    n_extra: int
    """Vectors that the index holds beyond."""
    n_words_missing: int
    """Memories that the index of words lacks; 0 where nothing is searched by words."""
    n_words_extra: int
    """Memories that it holds beyond."""
    n_unfinished: int
    """Builds of the index that a killed rebuild left behind."""
    memory_ids: tuple[str, ...]
    """Some of the memories concerned."""

    @property
    def agrees(self) -> bool:
        """Whether the indexes hold exactly what the ledger calls for."""
        return not (self.n_missing or self.n_extra or self.n_words_missing or self.n_words_extra)


def check_index(ledger: Ledger, index: Any, words: LexicalIndex | None) -> IndexCheck:
    """Compare; an index that cannot list what it holds is compared by its count."""
    memories = ledger.memories.list(status=INDEXED)
    ids = {memory.id for memory in memories if key_texts(memory)}  # without a key it is in no index
    place = getattr(index, "place", lambda partition: partition)
    expected = {(place(partition_of(m.scope)), m.id, key) for m in memories for key in key_texts(m)}
    if hasattr(index, "stored"):
        stored = index.stored()
        missing, extra = expected - stored, stored - expected
        n_missing, n_extra = len(missing), len(extra)
    else:
        missing, extra, n = set(), set(), index.count()
        n_missing, n_extra = max(0, len(expected) - n), max(0, n - len(expected))
    worded = words.stored() if words is not None else ids
    concerned = {row[1] for row in missing | extra} | (ids ^ worded)
    return IndexCheck(
        n_memories=len(ids),
        n_vectors=len(expected),
        n_missing=n_missing,
        n_extra=n_extra,
        n_words_missing=len(ids - worded),
        n_words_extra=len(worded - ids),
        n_unfinished=index.unfinished() if hasattr(index, "unfinished") else 0,
        memory_ids=tuple(sorted(concerned)[:_NAMED]),
    )
