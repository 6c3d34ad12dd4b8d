"""The refiner `ttl`: memories that have grown old are quarantined; nothing is ever deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from agentkd.protocols import Kit
from agentkd.schema import Memory, MemoryEdit, Standing, Value, now
from agentkd.schema.memory import MemoryKind

__all__ = [
    "TtlRefiner",
    "TtlSettings",
    "build_ttl",
    "learnt_at",
]


class TtlSettings(Value):
    """`[refiner.ttl]`."""

    days: float = Field(default=90.0, gt=0)
    """Age at which a memory expires, from when it came in here or last gained evidence."""
    kinds: tuple[MemoryKind, ...] = ("fact",)
    """Kinds that expire; facts age, procedures do not."""
    unused_only: bool = False
    """Whether a memory that some graded task has recalled is spared."""


class TtlRefiner:
    """Quarantine memories of some kinds when they are too old to be believed unseen.

    So is, of any kind, what its source said to hold until a day that is over (`Memory.holds_until`).
    """

    name = "ttl"

    def __init__(self, settings: TtlSettings | None = None, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings or TtlSettings()
        self._clock = clock

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield one edit to `quarantined` per memory."""
        moment = self._clock()
        oldest = moment - timedelta(days=self.settings.days)
        active = (memory for memory in memories if memory.status == "active")
        ends = {memory.id: until for memory in active if (until := memory.holds_until) is not None}
        judged = [memory for memory in memories if memory.id in ends or self._can_expire(memory)]
        standings = kit.standings(memory.id for memory in judged)
        for memory in judged:
            learnt, until = learnt_at(memory, standings.get(memory.id)), ends.get(memory.id)
            if until is not None and until <= moment:
                reason = f"its source says that it holds until {until:%Y-%m-%d %H:%M} UTC"
            elif self._can_expire(memory) and learnt < oldest:
                reason = f"last learnt on {learnt:%Y-%m-%d}, over {self.settings.days:g} days ago"
            else:
                continue
            yield MemoryEdit(ids=(memory.id,), status="quarantined", reason=reason)

    def _can_expire(self, memory: Memory) -> bool:
        is_spared = self.settings.unused_only and memory.utility.recalls > 0
        return memory.status == "active" and memory.kind in self.settings.kinds and not is_spared


def learnt_at(memory: Memory, standing: Standing | None) -> datetime:
    """Return when a memory was last learnt here; what a foreign store says of its age does not count."""
    if standing is None:
        return memory.created_at
    return standing.learnt_at or max(memory.created_at, standing.evidence_at or memory.created_at)


def build_ttl(settings: TtlSettings, kit: Any) -> TtlRefiner:
    """Make the component `ttl`."""
    return TtlRefiner(settings)
