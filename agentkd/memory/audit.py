"""Look over all memories: copies, lessons nobody uses, and lessons that were learnt from themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agentkd.memory.lesson import lesson_of
from agentkd.memory.projection import INDEXED, key_texts
from agentkd.memory.scope import partition_of
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Audit", "MemoryPair", "audit"]

_BLOCK = 1024  # rows of one similarity matrix
_MOST_PAIRS = 1000


class MemoryPair(Value):
    """Two memories of one kind and scope whose situations are alike."""

    first: str
    """Id of the one."""
    second: str
    """Id of the other."""
    score: float
    """Cosine similarity of their situations."""
    same_lesson: bool
    """Whether they teach the same; if not, one of them may be wrong."""


class Audit(Value):
    """What an audit found; counts are about current memories."""

    n: int
    """Current memories."""
    by_status: dict[str, int]
    """Memories by status for the base model."""
    by_kind: dict[str, int]
    """Memories by kind."""
    exact_copies: tuple[tuple[str, ...], ...]
    """Groups of ids with equal lesson and equal situation."""
    near_copies: tuple[MemoryPair, ...]
    """Most similar pairs above `[memory] merge_above`, at most a thousand."""
    never_recalled: tuple[str, ...]
    """Active memories that no graded task has recalled."""
    loops: tuple[str, ...]
    """Memories that rest on a trajectory into whose prompt the same lesson had been recalled."""
    n_vectors: int
    """Vectors in the index."""
    n_vectors_expected: int
    """Vectors that the ledger calls for; where they differ, rebuild the index."""


def audit(ledger: Ledger, embedder: Embedder, *, merge_above: float, n_vectors: int) -> Audit:
    """Read every current memory and compare them; embeds what is not cached."""
    memories = ledger.memories.list()
    alive = [memory for memory in memories if memory.status in INDEXED]
    return Audit(
        n=len(memories),
        by_status=dict(sorted(Counter(memory.status for memory in memories).items())),
        by_kind=dict(sorted(Counter(memory.kind for memory in memories).items())),
        exact_copies=_exact_copies(alive),
        near_copies=_near_copies(alive, embedder, merge_above),
        never_recalled=tuple(m.id for m in alive if m.status == "active" and not m.utility.recalls),
        loops=_loops(memories, ledger),
        n_vectors=n_vectors,
        n_vectors_expected=sum(len(key_texts(memory)) for memory in alive),
    )


def _exact_copies(memories: Sequence[Memory]) -> tuple[tuple[str, ...], ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for memory in memories:
        situation = " ".join(memory.when_to_use.casefold().split())
        groups.setdefault((lesson_of(memory), situation), []).append(memory.id)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _near_copies(
    memories: Sequence[Memory], embedder: Embedder, merge_above: float
) -> tuple[MemoryPair, ...]:
    groups: dict[tuple[str, str], list[Memory]] = {}
    for memory in memories:
        groups.setdefault((memory.kind, partition_of(memory.scope)), []).append(memory)
    pairs = [pair for group in groups.values() for pair in _pairs(group, embedder, merge_above)]
    pairs.sort(key=lambda pair: (-pair.score, pair.first, pair.second))
    return tuple(pairs[:_MOST_PAIRS])


def _pairs(group: Sequence[Memory], embedder: Embedder, merge_above: float) -> Iterator[MemoryPair]:
    vectors = embedder.embed([memory.when_to_use for memory in group])
    lessons = [lesson_of(memory) for memory in group]
    for start in range(0, len(group), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        for row, column in zip(*np.nonzero(scores > merge_above), strict=True):
            first, second = start + int(row), int(column)
            if first < second:
                yield MemoryPair(
                    first=group[first].id,
                    second=group[second].id,
                    score=float(scores[row, column]),
                    same_lesson=lessons[first] == lessons[second],
                )


def _loops(memories: Sequence[Memory], ledger: Ledger) -> tuple[str, ...]:
    lessons = {memory.id: lesson_of(memory) for memory in memories}
    shown: dict[str, set[str]] = {}
    for recall in ledger.memories.recalls():
        if not recall.withheld and recall.memory_id in lessons:
            shown.setdefault(recall.trajectory_id, set()).add(lessons[recall.memory_id])
    return tuple(
        memory.id
        for memory in memories
        if any(lessons[memory.id] in shown.get(id_, ()) for id_ in memory.evidence.trajectories)
    )
