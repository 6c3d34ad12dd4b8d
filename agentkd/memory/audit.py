"""Look over all memories of a store, ours or a foreign one: copies, disuse, loops, secrets and junk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from agentkd.memory.junk import junk_sign, quotes_recall
from agentkd.memory.lesson import lesson_of, normalise
from agentkd.memory.projection import INDEXED, key_texts
from agentkd.memory.scope import partition_of
from agentkd.protocols import Embedder
from agentkd.schema import REDACTED, Memory, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger

__all__ = ["Audit", "DuplicateRate", "MemoryPair", "audit", "duplicate_rates", "look_over"]

_BLOCK = 1024  # rows of one similarity matrix
_MOST_PAIRS = 1000
NEAR = 0.8
"""Similarity at which near copies are counted besides: figures of other stores are published at it."""
_ECHOES = 5  # equal entries from which on a store has learnt from itself


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


class DuplicateRate(Value):
    """What a de-duplication of whole lessons (situation and text) in their order would drop."""

    threshold: float
    """Cosine similarity from which a memory counts as a copy of one that is kept."""
    n: int
    """Memories that would be dropped, exact copies included."""
    rate: float
    """Their share of the memories looked at."""


class Audit(Value):
    """What an audit found. Ids are memory ids; in a foreign store, the places of the entries."""

    n: int
    """Current memories."""
    by_status: dict[str, int]
    """Memories by status for the base model."""
    by_kind: dict[str, int]
    """Memories by kind."""
    exact_copies: tuple[tuple[str, ...], ...]
    """Groups of ids with equal lesson and equal situation."""
    exact_rate: float = 0.0
    """Share of the store that is an exact copy of an earlier memory."""
    near_copies: tuple[MemoryPair, ...]
    """Most similar pairs above `[memory] merge_above`, at most a thousand."""
    duplicates: tuple[DuplicateRate, ...] = ()
    """Share of the store that is a near copy, at the embedder's thresholds."""
    counts_use: bool = True
    """Whether the store knows what was recalled; if not, `never_recalled` is empty."""
    never_recalled: tuple[str, ...]
    """Active memories that were found for no run."""
    loops: tuple[str, ...]
    """Memories that rest on a trajectory into whose prompt the same lesson had been recalled."""
    quotes: tuple[str, ...] = ()
    """Memories that quote a block of recalled notes, so were learnt from a prompt."""
    echoes: tuple[tuple[str, ...], ...] = ()
    """Groups of five or more exact copies: one lesson stored again and again."""
    secrets: tuple[str, ...] = ()
    """Memories that hold what looks like a key, token or password; the secret itself is never shown."""
    n_redacted: int = 0
    """Memories that a secret was taken out of before they were stored."""
    junk: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Ids by sign: `empty`, `short`, `instance-only` (nothing but names, numbers and links)."""
    n_vectors: int = 0
    """Vectors in the index; 0 for a foreign store."""
    n_vectors_expected: int = 0
    """Vectors that the ledger calls for; where they differ, rebuild the index."""

    @property
    def is_sound(self) -> bool:
        """Whether there is nothing to act on at once: no loop, no secret, no lost vector."""
        found = (self.loops, self.quotes, self.echoes, self.secrets)
        return not any(found) and self.n_vectors == self.n_vectors_expected


def audit(ledger: Ledger, embedder: Embedder, *, merge_above: float, n_vectors: int) -> Audit:
    """Read every current memory and compare them; embeds what is not cached."""
    memories = ledger.memories.list()
    alive = [memory for memory in memories if memory.status in INDEXED]
    recalled = ledger.memories.recalled_for(memory.id for memory in alive)
    found = look_over(alive, embedder, merge_above=merge_above)
    return found.model_copy(
        update={
            "n": len(memories),
            "by_status": dict(sorted(Counter(memory.status for memory in memories).items())),
            "by_kind": dict(sorted(Counter(memory.kind for memory in memories).items())),
            "never_recalled": tuple(m.id for m in alive if m.status == "active" and m.id not in recalled),
            "loops": _loops(memories, ledger),
            "n_vectors": n_vectors,
            "n_vectors_expected": sum(len(key_texts(memory)) for memory in alive),
        }
    )


def look_over(
    memories: Sequence[Memory],
    embedder: Embedder,
    *,
    merge_above: float,
    labels: Sequence[str] | None = None,
    counts_use: bool = True,
    redact: Callable[[str], str] | None = None,
) -> Audit:
    """Audit any memories, stored or not.

    Args:
        memories: What is looked at, in its order.
        embedder: What similarity is measured with.
        merge_above: Similarity from which two memories say the same.
        labels: Names for the report, one per memory; their ids by default.
        counts_use: Whether a memory's 0 recalls mean that it was never recalled.
        redact: What takes secrets out of a text; the ledger's patterns by default.
    """
    names = [memory.id for memory in memories] if labels is None else list(labels)
    groups = _exact_copies(memories, names)
    junk: dict[str, list[str]] = {}
    for memory, name in zip(memories, names, strict=True):
        if sign := junk_sign(memory):
            junk.setdefault(sign, []).append(name)
    return Audit(
        n=len(memories),
        by_status=dict(sorted(Counter(memory.status for memory in memories).items())),
        by_kind=dict(sorted(Counter(memory.kind for memory in memories).items())),
        exact_copies=groups,
        exact_rate=sum(len(group) - 1 for group in groups) / max(1, len(memories)),
        near_copies=_near_copies(memories, names, embedder, merge_above),
        duplicates=duplicate_rates(memories, embedder, sorted({merge_above, NEAR}, reverse=True)),
        counts_use=counts_use,
        never_recalled=_named(memories, names, lambda m: counts_use and not m.utility.recalls),
        loops=(),
        quotes=_named(memories, names, quotes_recall),
        echoes=tuple(group for group in groups if len(group) >= _ECHOES),
        secrets=_secrets(memories, names, redact),
        n_redacted=sum(REDACTED in memory.model_dump_json() for memory in memories),
        junk={sign: tuple(found) for sign, found in sorted(junk.items())},
    )


def duplicate_rates(
    memories: Sequence[Memory], embedder: Embedder, thresholds: Sequence[float]
) -> tuple[DuplicateRate, ...]:
    """Return how many memories each threshold would drop, within their scope, the first one kept."""
    groups: dict[str, list[Memory]] = {}
    for memory in memories:
        groups.setdefault(partition_of(memory.scope), []).append(memory)
    vectors = [embedder.embed([_whole(memory) for memory in group]) for group in groups.values()]
    dropped = {t: sum(len(rows) - _n_kept(rows, t) for rows in vectors) for t in thresholds}
    n = max(1, len(memories))
    return tuple(DuplicateRate(threshold=t, n=found, rate=found / n) for t, found in dropped.items())


def _whole(memory: Memory) -> str:
    if memory.when_to_use in ("", memory.content):
        return memory.content
    return f"{memory.when_to_use} {memory.content}"


def _n_kept(vectors: NDArray[np.float32], threshold: float) -> int:
    """Return how many rows are less similar than `threshold` to every row that was kept before them."""
    kept = np.zeros((0, vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        if len(kept):
            block = block[(block @ kept.T).max(axis=1) < threshold]
        alike = block @ block.T >= threshold
        chosen: list[int] = []
        for row in range(len(block)):
            if not alike[row, chosen].any():
                chosen.append(row)
        kept = np.concatenate([kept, block[chosen]])
    return len(kept)


def _named(
    memories: Sequence[Memory], names: Sequence[str], has: Callable[[Memory], bool]
) -> tuple[str, ...]:
    return tuple(name for memory, name in zip(memories, names, strict=True) if has(memory))


def _secrets(
    memories: Sequence[Memory], names: Sequence[str], redact: Callable[[str], str] | None
) -> tuple[str, ...]:
    from agentkd.ledger.redact import redact_json, redact_secrets

    clean = redact or redact_secrets
    return _named(memories, names, lambda m: redact_json(m.model_dump(mode="json"), clean)[1])


def _exact_copies(memories: Sequence[Memory], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for memory, name in zip(memories, names, strict=True):
        groups.setdefault((lesson_of(memory), normalise(memory.when_to_use)), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _near_copies(
    memories: Sequence[Memory], names: Sequence[str], embedder: Embedder, merge_above: float
) -> tuple[MemoryPair, ...]:
    groups: dict[tuple[str, str], list[tuple[Memory, str]]] = {}
    for memory, name in zip(memories, names, strict=True):
        groups.setdefault((memory.kind, partition_of(memory.scope)), []).append((memory, name))
    pairs = [pair for group in groups.values() for pair in _pairs(group, embedder, merge_above)]
    pairs.sort(key=lambda pair: (-pair.score, pair.first, pair.second))
    return tuple(pairs[:_MOST_PAIRS])


def _pairs(
    group: Sequence[tuple[Memory, str]], embedder: Embedder, merge_above: float
) -> Iterator[MemoryPair]:
    vectors = embedder.embed([memory.when_to_use for memory, _ in group])
    lessons = [lesson_of(memory) for memory, _ in group]
    for start in range(0, len(group), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ vectors.T
        for row, column in zip(*np.nonzero(scores > merge_above), strict=True):
            first, second = start + int(row), int(column)
            if first < second:
                yield MemoryPair(
                    first=group[first][1],
                    second=group[second][1],
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
