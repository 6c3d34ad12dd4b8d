"""Which memories are close to each other: situations compared in blocks, within kind, scope and privacy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agentkd.memory.scope import partition_of
from agentkd.protocols import Embedder
from agentkd.schema import Memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Situations", "close_pairs", "judged", "rank", "situation_of", "stars", "together"]

_BLOCK = 1024  # rows of one similarity matrix

Pair = tuple[Memory, Memory]


def judged(memories: Iterable[Memory]) -> list[Memory]:
    """Return the memories that refiners of the pool may touch: active ones that no store item holds."""
    from agentkd.ledger.item import ITEM_ORIGIN

    return [memory for memory in memories if memory.status == "active" and memory.origin != ITEM_ORIGIN]


def together(memories: Iterable[Memory]) -> list[list[Memory]]:
    """Group memories that may be compared: one kind, one scope, one privacy."""
    groups: dict[tuple[str, str, str], list[Memory]] = {}
    for memory in memories:
        groups.setdefault((memory.kind, partition_of(memory.scope), memory.privacy), []).append(memory)
    return list(groups.values())


def situation_of(memory: Memory) -> str:
    """Return the text that says when a memory applies."""
    return memory.keys.situation or memory.when_to_use


def rank(memory: Memory) -> tuple[object, ...]:
    """Order memories: best supported first, then the most confident, then the oldest."""
    return (-memory.support, -memory.confidence, memory.created_at, memory.id)


class Situations:
    """Vectors of what some memories say, embedded once."""

    def __init__(
        self,
        memories: Sequence[Memory],
        embedder: Embedder,
        text_of: Callable[[Memory], str] = situation_of,
    ) -> None:
        self._row = {memory.id: row for row, memory in enumerate(memories)}
        self.vectors: NDArray[np.float32] = embedder.embed([text_of(memory) for memory in memories])

    def of(self, memories: Sequence[Memory]) -> NDArray[np.float32]:
        """Return the vectors of some of the memories, in their order."""
        return self.vectors[[self._row[memory.id] for memory in memories]]

    def score(self, first: Memory, second: Memory) -> float:
        """Return the cosine similarity of two of the memories."""
        return float(self.vectors[self._row[first.id]] @ self.vectors[self._row[second.id]])


def close_pairs(memories: Sequence[Memory], above: float, *views: Situations) -> Iterator[Pair]:
    """Yield every pair whose similarity is above a threshold in all views; the views hold all memories."""
    tables = [view.of(memories) for view in views]
    for start in range(0, len(memories), _BLOCK):
        near: NDArray[np.bool_] | None = None
        for vectors in tables:
            block = vectors[start : start + _BLOCK] @ vectors[start:].T
            near = block > above if near is None else near & (block > above)
        if near is None:
            return
        for row, column in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            yield memories[start + int(row)], memories[start + int(column)]


def stars(
    pairs: Iterable[Pair], order: Callable[[Memory], tuple[object, ...]] = rank
) -> Iterator[tuple[Memory, list[Memory]]]:
    """Yield centres with what they take in; each memory is in one star, centres come in order.

    A pair says that its first memory may take in its second one.
    """
    near: dict[str, list[Memory]] = {}
    known: dict[str, Memory] = {}
    for first, second in pairs:
        near.setdefault(first.id, []).append(second)
        known[first.id] = first
    taken: set[str] = set()
    for centre in sorted(known.values(), key=order):
        if centre.id in taken:
            continue
        around = [memory for memory in sorted(near[centre.id], key=order) if memory.id not in taken]
        if around:
            taken.update([centre.id, *(memory.id for memory in around)])
            yield centre, around
