"""Compare the indexes with the ledger, vector by vector: counts alone hide a loss beside a leftover.

Ids alone hide a flipped bit in a vector or in the graph of the search, so a deep check searches for the very
text of each vector, too: what is not found by its own text is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from agentkd.memory.projection import INDEXED, key_texts, word_text
from agentkd.memory.scope import partition_of
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger
    from agentkd.memory.lexical import LexicalIndex

__all__ = ["IndexCheck", "check_index"]

_NAMED = 20  # ids that a check lists
_BATCH = 256
_SAME = 1e-3  # cosine distance of a vector from what its own text gives
_ALIKE = 1000  # memories among which a text must find its own


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
    n_unfound: int = 0
    """Memories whose vectors or words are not those of their text; only a deep check looks."""
    n_unfinished: int
    """Builds of the index that a killed rebuild left behind."""
    memory_ids: tuple[str, ...]
    """Some of the memories concerned."""

    @property
    def agrees(self) -> bool:
        """Whether the indexes hold exactly what the ledger calls for."""
        ids_differ = self.n_missing or self.n_extra or self.n_words_missing or self.n_words_extra
        return not (ids_differ or self.n_unfound)


def check_index(
    ledger: Ledger, index: Any, words: LexicalIndex | None, embedder: Embedder | None = None
) -> IndexCheck:
    """Compare; an index that cannot list what it holds is compared by its count.

    With an embedder the check is deep: every vector and every memory is searched for by its own text.
    """
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
    unfound = list[str]()
    if embedder is not None:
        there = [memory for memory in memories if memory.id in ids and memory.id not in concerned]
        wrong = _wrong_vectors(there, index, embedder) if hasattr(index, "vectors") else ()
        unfound += dict.fromkeys([*_unfound_vectors(there, index, embedder), *wrong])
        unfound += _unfound_words(there, words) if words is not None else []
    return IndexCheck(
        n_memories=len(ids),
        n_vectors=len(expected),
        n_missing=n_missing,
        n_extra=n_extra,
        n_words_missing=len(ids - worded),
        n_words_extra=len(worded - ids),
        n_unfound=len(unfound),
        n_unfinished=index.unfinished() if hasattr(index, "unfinished") else 0,
        memory_ids=tuple(sorted(concerned | {*unfound})[:_NAMED]),
    )


def _unfound_vectors(memories: Iterable[Memory], index: Any, embedder: Embedder) -> Iterator[str]:
    """Yield the memory of each vector whose nearest neighbour is not itself, or an equal one."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for memory in memories:
        texts.setdefault(partition_of(memory.scope), []).extend(
            (memory.id, text) for text in key_texts(memory).values()
        )
    for partition, keyed in texts.items():
        for start in range(0, len(keyed), _BATCH):
            part = keyed[start : start + _BATCH]
            hits = index.query(embedder.embed([text for _, text in part]), 1, partition)
            for (memory_id, _), found in zip(part, hits, strict=True):
                if not found or found[0].score < 1 - _SAME:
                    yield memory_id


def _wrong_vectors(memories: Iterable[Memory], index: Any, embedder: Embedder) -> Iterator[str]:
    """Yield the memory of each vector that is not what its text gives: a search takes a long one for near."""
    texts = {(memory.id, key): text for memory in memories for key, text in key_texts(memory).items()}
    for owners, vectors in index.vectors():
        known = [(at, owner) for at, owner in enumerate(owners) if owner in texts]
        right = embedder.embed([texts[owner] for _, owner in known])
        for (at, owner), wanted in zip(known, right, strict=True):
            off = vectors[at] - wanted
            if not float(off @ off) <= 2 * _SAME:  # also where it is no number
                yield owner[0]


def _unfound_words(memories: Iterable[Memory], words: LexicalIndex) -> Iterator[str]:
    """Yield the memories that are not among those which share most words with their own text."""
    for memory in memories:
        hits = words.search(word_text(memory), _ALIKE, [partition_of(memory.scope)])
        if len(hits) < _ALIKE and memory.id not in {hit.memory_id for hit in hits}:
            yield memory.id
