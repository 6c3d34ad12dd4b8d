"""What happened to memories: all versions and events of one, and the pool as it was at another time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.ledger import MemoryEvent
from agentkd.memory.projection import key_texts
from agentkd.memory.scope import sees
from agentkd.memory.status import RECALLED
from agentkd.protocols import Embedder
from agentkd.schema import Hit, Memory, Scope, Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = [
    "FieldChange",
    "MemoryChange",
    "MemoryHistory",
    "PoolChange",
    "compare",
    "pool_change",
    "read_history",
    "recall_at",
]


class MemoryHistory(Value):
    """One memory over time."""

    versions: tuple[Memory, ...]
    """All versions of its chain and the memories merged into it, the first version first."""
    events: tuple[MemoryEvent, ...]
    """What happened to them, in order."""
    n_shown: int = 0
    """Runs into whose prompts a version was put."""
    n_withheld: int = 0
    """Runs from which a trial withheld one."""
    n_won: int = 0
    """Runs that were shown one and were done."""
    replaced: dict[str, str] = Field(default_factory=dict)
    """Versions that are not current, and what took the place of each."""


class FieldChange(Value):
    """A field in which two memories differ."""

    field: str
    """Name, dotted for parts of it."""
    before: Any
    """Value in the first one."""
    after: Any
    """Value in the second one."""


class MemoryChange(Value):
    """How two memories, such as two versions of one, differ."""

    first: str
    """Id of the one."""
    second: str
    """Id of the other."""
    changes: tuple[FieldChange, ...]
    """Fields that differ, in the order of the schema."""


class PoolChange(Value):
    """What happened to a pool of memories between two times."""

    since: datetime
    """From then on (UTC)."""
    until: datetime
    """Up to then (UTC)."""
    n_before: int
    """Current memories at the beginning."""
    n_after: int
    """Current memories at the end."""
    counts: dict[str, int]
    """Events by kind."""
    events: tuple[MemoryEvent, ...]
    """The events, in order."""


def read_history(ledger: Ledger, memory_id: str) -> MemoryHistory:
    """Return all that is known of a memory; raises NotFoundError."""
    versions = ledger.memories.history(memory_id)
    events = [e for version in versions for e in ledger.memories.events(memory_id=version.id)]
    runs: dict[str, tuple[bool, bool]] = {}
    for version in versions:
        for recall in ledger.memories.recalls(memory_id=version.id):
            shown, won = runs.get(recall.trajectory_id, (False, False))
            is_shown = not recall.withheld
            runs[recall.trajectory_id] = (shown or is_shown, won or (is_shown and bool(recall.win)))
    return MemoryHistory(
        versions=tuple(versions),
        events=tuple(sorted(events, key=lambda e: e.seq)),
        n_shown=sum(shown for shown, _ in runs.values()),
        n_withheld=sum(not shown for shown, _ in runs.values()),
        n_won=sum(won for _, won in runs.values()),
        replaced=ledger.memories.successors(version.id for version in versions),
    )


def compare(first: Memory, second: Memory) -> MemoryChange:
    """Return the fields in which two memories differ."""
    one, two = _flat(first.model_dump(mode="json")), _flat(second.model_dump(mode="json"))
    names = dict.fromkeys([*one, *two])
    changes = tuple(
        FieldChange(field=name, before=one.get(name), after=two.get(name))
        for name in names
        if one.get(name) != two.get(name)
    )
    return MemoryChange(first=first.id, second=second.id, changes=changes)


def _flat(data: dict[str, Any], head: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{head}{name}."))
        else:
            found[f"{head}{name}"] = value
    return found


def pool_change(ledger: Ledger, since: datetime, until: datetime) -> PoolChange:
    """Return what happened to all memories after `since` and up to `until`."""
    events = tuple(e for e in ledger.memories.events() if since < e.happened_at <= until)
    return PoolChange(
        since=since,
        until=until,
        n_before=len(ledger.memories.status_for(at=since)),
        n_after=len(ledger.memories.status_for(at=until)),
        counts=dict(Counter(e.kind for e in events).most_common()),
        events=events,
    )


def recall_at(
    ledger: Ledger,
    embedder: Embedder,
    state: str,
    at: datetime,
    *,
    k: int,
    min_score: float,
    scope: Scope,
    checkpoint: str = "base",
) -> list[Hit]:
    """Return what was similar to a state among the memories that could be recalled at a time.

    Exact and by meaning alone: indexes hold the present. Embeds what is not cached.
    """
    then = ledger.memories.list(status=RECALLED, scope=scope, checkpoint=checkpoint, at=at)
    seen = [memory for memory in then if sees(scope, memory.scope)]
    rows = [(memory, name, text) for memory in seen for name, text in key_texts(memory).items()]
    if not rows:
        return []
    vectors = embedder.embed([state, *(text for _, _, text in rows)])
    return _best(rows, (vectors[1:] @ vectors[0]).tolist(), k, min_score)


def _best(
    rows: Sequence[tuple[Memory, str, str]], scores: Sequence[float], k: int, min_score: float
) -> list[Hit]:
    best: dict[str, Hit] = {}
    for (memory, name, _), score in zip(rows, scores, strict=True):
        if score >= min_score and (memory.id not in best or score > best[memory.id].score):
            best[memory.id] = Hit(memory=memory, score=score, key=name)
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.memory.id))[:k]
