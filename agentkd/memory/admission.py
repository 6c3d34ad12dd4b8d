"""Let candidates in: plugins may refuse, near copies corroborate, the rest becomes visible at once.

All candidates of one call are stored in one ledger transaction, so a recall sees all of them or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from agentkd import hookspecs
from agentkd.errors import NotFoundError, PluginError
from agentkd.memory.lesson import Lessons, lesson_of
from agentkd.memory.projection import key_texts
from agentkd.plugins import Hooks
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger

__all__ = ["Admission", "admit"]

_COMPARED = ("situation", "task")
_WELCOME = ("candidate", "active", "quarantined")


class Admission(Value):
    """What became of one candidate."""

    memory_id: str
    """The memory that now holds the lesson: the candidate, or the one that it was merged into."""
    outcome: Literal["stored", "merged", "rejected", "failed"]
    """`merged` where it corroborated another memory; `failed` where a plugin broke while judging it."""
    reason: str = ""
    """Why; empty for a stored candidate."""
    candidate_id: str = ""
    """The candidate, where it was merged into another memory."""


@dataclass(frozen=True)
class _Twin:
    """A memory, or an earlier candidate of the same call, that teaches the same."""

    memory_id: str
    status: str
    vectors: dict[str, NDArray[np.float32]]


def admit(
    candidates: Iterable[Memory],
    *,
    ledger: Ledger,
    lessons: Lessons,
    embedder: Embedder,
    hooks: Hooks,
    merge_above: float,
) -> list[Admission]:
    """Judge and store candidates; returns one answer per candidate, in their order."""
    batch = list(candidates)
    refused = [_refusal(memory, hooks) for memory in batch]
    open_ = [memory for memory, answer in zip(batch, refused, strict=True) if answer is None]
    vectors = _vectors(open_, embedder)
    twins = _twins(open_, ledger, lessons, embedder)
    answers = []
    with ledger.transaction():
        for memory, answer in zip(batch, refused, strict=True):
            if answer is None:
                alike = twins.setdefault(lesson_of(memory), [])
                answer = _store(memory, vectors[memory.id], alike, ledger, merge_above)
                if answer.outcome == "stored":
                    alike.append(_Twin(memory.id, "active", vectors[memory.id]))
            answers.append(answer)
    return answers


def _refusal(memory: Memory, hooks: Hooks) -> Admission | None:
    if memory.status not in _WELCOME:
        return _rejected(memory, f"its status is `{memory.status}`; candidates are judged here")
    if not key_texts(memory):
        return _rejected(memory, "it has no key by which it could be found")
    try:
        plugins = hooks.refusals(hookspecs.admit_memory, memory=memory)
    except PluginError as error:
        return Admission(memory_id=memory.id, outcome="failed", reason=str(error))
    return _rejected(memory, f"refused by {', '.join(f'`{name}`' for name in plugins)}") if plugins else None


def _store(
    memory: Memory,
    vectors: dict[str, NDArray[np.float32]],
    alike: Sequence[_Twin],
    ledger: Ledger,
    merge_above: float,
) -> Admission:
    is_there = any(twin.memory_id == memory.id for twin in alike)  # then the ledger merges it itself
    twin, score = (None, 0.0) if is_there else _nearest(vectors, alike)
    if twin is not None and score > merge_above:
        return _merge(memory, twin, score, ledger)
    status = "active" if memory.status == "candidate" else memory.status
    answer = ledger.memories.admit([memory.model_copy(update={"status": status})])[0]
    return Admission(memory_id=memory.id, outcome=answer.outcome, reason=answer.reason)


def _merge(memory: Memory, twin: _Twin, score: float, ledger: Ledger) -> Admission:
    if twin.status == "revoked":
        return _rejected(memory, f"a near copy, `{twin.memory_id}`, was revoked (cosine {score:.2f})")
    try:
        rise = ledger.memories.corroborate(twin.memory_id, memory.evidence)
    except NotFoundError as error:
        return _rejected(memory, error.message)
    return Admission(
        memory_id=twin.memory_id,
        outcome="merged",
        reason=f"the same lesson for the same situation (cosine {score:.2f}); support +{rise}",
        candidate_id=memory.id,
    )


def _nearest(vectors: dict[str, NDArray[np.float32]], twins: Sequence[_Twin]) -> tuple[_Twin | None, float]:
    best, best_score = None, -1.0
    for twin in twins:
        shared = [name for name in vectors if name in twin.vectors]
        score = max((float(vectors[name] @ twin.vectors[name]) for name in shared), default=-1.0)
        if score > best_score:
            best, best_score = twin, score
    return best, best_score


def _twins(
    memories: Sequence[Memory], ledger: Ledger, lessons: Lessons, embedder: Embedder
) -> dict[str, list[_Twin]]:
    """Return the stored memories that teach what the candidates teach, by lesson."""
    alike = lessons.alike({lesson_of(memory) for memory in memories})
    status = ledger.memories.status_for("base")  # superseded versions are not in it and not compared
    ids = [id_ for group in alike.values() for id_ in group if id_ in status]
    vectors = _vectors(ledger.memories.get_many(ids), embedder)
    return {
        lesson: [_Twin(id_, status[id_], vectors[id_]) for id_ in group if id_ in vectors]
        for lesson, group in alike.items()
    }


def _vectors(memories: Sequence[Memory], embedder: Embedder) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Embed what near copies are compared by: `{memory id: {key name: vector}}`."""
    rows = [(memory.id, name, text) for memory in memories for name, text in _compared(memory).items()]
    found: dict[str, dict[str, NDArray[np.float32]]] = {memory.id: {} for memory in memories}
    for (memory_id, name, _), vector in zip(rows, embedder.embed([row[2] for row in rows]), strict=True):
        found[memory_id][name] = vector
    return found


def _compared(memory: Memory) -> dict[str, str]:
    texts = memory.keys.texts() or {"situation": memory.when_to_use}
    return {name: texts[name] for name in _COMPARED if name in texts} or {"situation": memory.when_to_use}


def _rejected(memory: Memory, reason: str) -> Admission:
    return Admission(memory_id=memory.id, outcome="rejected", reason=reason)
