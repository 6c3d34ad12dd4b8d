"""What memories are worth: the lift of each memory and of each scope, from the ledger's counters.

The arithmetic is `agentkd.schema.lift`. A memory's lift compares tasks that saw it with tasks from which
a trial withheld it alone; a scope's lift compares tasks that saw all that was recalled with tasks that saw
nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from agentkd.config import MemorySettings
from agentkd.memory.scope import partition_of
from agentkd.schema import Lift, Memory, Scope, Utility, Value, lift_of, pooled_prior
from agentkd.schema.lift import STRENGTH, Prior

if TYPE_CHECKING:
    from agentkd.ledger import Ledger, ScopeCounts

__all__ = [
    "LiftReport",
    "MemoryLift",
    "ScopeLift",
    "lift_report",
    "lifts_of",
    "priors_of",
    "rank_of",
    "scope_lift",
]


class ScopeLift(Value):
    """What recall is worth to the tasks of a scope."""

    scope: Scope
    """Whose tasks."""
    lift: Lift
    """Tasks that saw their memories against tasks that had all of them withheld."""
    n_one: int = 0
    """Further graded tasks that had one memory withheld."""
    n_open: int = 0
    """Tasks that nobody has graded; they do not count."""
    is_off: bool | None = False
    """Whether recall is switched off, but on trials; None where scopes that are counted together differ."""


class MemoryLift(Value):
    """What one memory is worth."""

    memory_id: str
    """The memory."""
    kind: str
    """What sort of lesson."""
    status: str
    """Status for the base model."""
    when_to_use: str
    """The situation in which it is to help."""
    lift: Lift
    """Tasks that saw it against tasks from which it was withheld."""


class LiftReport(Value):
    """What recall and its memories are worth."""

    scopes: tuple[ScopeLift, ...]
    """One per scope, by name."""
    memories: tuple[MemoryLift, ...]
    """Those that some graded task has recalled, best first."""
    n_unmeasured: int = 0
    """Memories that no graded task has recalled."""


def lifts_of(
    memories: Sequence[Memory], *, level: float = 0.95, band: float = 0.0, strength: float = STRENGTH
) -> dict[str, Lift]:
    """Return the lift of each memory by its id; the prior pools the memories of one scope."""
    priors = priors_of(memories, strength)
    return {
        memory.id: lift_of(memory.utility, priors[partition_of(memory.scope)], level=level, band=band)
        for memory in memories
    }


def priors_of(memories: Iterable[Memory], strength: float = STRENGTH) -> dict[str, Prior]:
    """Return the prior of each scope's memories, by the scope's partition."""
    groups: dict[str, list[Utility]] = {}
    for memory in memories:
        groups.setdefault(partition_of(memory.scope), []).append(memory.utility)
    return {scope: pooled_prior(group, strength) for scope, group in groups.items()}


def rank_of(memory: Memory, lift: Lift) -> tuple[float, int, int, str]:
    """Return a key that sorts the best memories first: by lift, support and wins.

    The posterior mean counts, which the prior holds near 0 until tasks speak: what is new stands above
    what was measured to harm or idle, and below what was measured to help.
    """
    return -lift.value, -memory.support, -memory.utility.wins, memory.id


def scope_lift(counts: ScopeCounts, settings: MemorySettings) -> ScopeLift:
    """Return the lift of a scope from its counts, and whether recall is switched off by it."""
    return ScopeLift(
        scope=counts.scope,
        lift=counts.lift(settings.trial_level),
        n_one=counts.n_one,
        n_open=counts.n_open,
        is_off=counts.off(settings) is not None,
    )


def lift_report(
    ledger: Ledger, settings: MemorySettings, by: Collection[str] = tuple(Scope.model_fields)
) -> LiftReport:
    """Return what recall is worth per scope and per memory; `by` names the fields that tell scopes apart.

    Recall is judged, as the agents do it, by the newest tasks of scopes that all fields tell apart.
    """
    newest = [ledger.trials.of(c.scope, settings.trial_window) for c in ledger.trials.by(Scope.model_fields)]
    judged = [scope_lift(counts, settings) for counts in newest]
    scopes = judged
    if set(by) != set(Scope.model_fields):
        scopes = [
            scope_lift(counts, settings).model_copy(update={"is_off": _common(judged, counts.scope, by)})
            for counts in ledger.trials.by(by)
        ]
    memories = ledger.memories.list()
    lifts = lifts_of(memories, level=settings.trial_level)
    used = [m for m in memories if m.utility.recalls or m.utility.held_out]
    used.sort(key=lambda memory: rank_of(memory, lifts[memory.id]))
    return LiftReport(
        scopes=tuple(scopes),
        memories=tuple(
            MemoryLift(
                memory_id=memory.id,
                kind=memory.kind,
                status=memory.status,
                when_to_use=memory.when_to_use,
                lift=lifts[memory.id],
            )
            for memory in used
        ),
        n_unmeasured=len(memories) - len(used),
    )


def _common(judged: Sequence[ScopeLift], scope: Scope, by: Collection[str]) -> bool | None:
    """Return whether recall is off in all scopes that are counted as one; None where they differ."""
    within = (each for each in judged if all(getattr(each.scope, x) == getattr(scope, x) for x in by))
    found = {each.is_off for each in within}
    return found.pop() if len(found) == 1 else None
