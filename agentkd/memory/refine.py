"""Refiners: memories that do not help are quarantined, with figures; nothing is ever deleted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydantic import Field

from agentkd.protocols import Kit
from agentkd.schema import Memory, Value, now
from agentkd.schema.memory import MemoryKind

__all__ = [
    "Edit",
    "TtlRefiner",
    "TtlSettings",
    "UtilityPruneRefiner",
    "UtilityPruneSettings",
    "build_ttl",
    "build_utility_prune",
    "probability_below",
]


class Edit(Value):
    """A change of status that a refiner made."""

    memory_id: str
    """The memory."""
    before: str
    """Status for the base model before."""
    status: str
    """Status since."""
    reason: str
    """Refiner and figures."""


class UtilityPruneSettings(Value):
    """`[refiner.utility-prune]`."""

    min_recalls: int = Field(default=5, ge=1)
    """Graded tasks that must have recalled a memory before it is judged."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Certainty that its win rate is below the base rate."""
    min_others: int = Field(default=20, ge=1)
    """Graded tasks that the base rate must rest on."""


class UtilityPruneRefiner:
    """Quarantine memories whose tasks succeed less often than others do.

    A memory's win rate has the posterior Beta(1 + wins, 1 + losses). The base rate is what the tasks
    achieved from which trials withheld memories (`held_out`) where there are enough of them, else the
    pooled win rate of all other recalled memories. Where the posterior's upper bound at `level` lies
    below the base rate, the memory is quarantined; every figure goes into the reason.
    """

    name = "utility-prune"

    def __init__(self, settings: UtilityPruneSettings | None = None) -> None:
        self.settings = settings or UtilityPruneSettings()

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[tuple[str, str, str]]:
        """Yield `(memory id, "quarantined", reason)`."""
        totals = [sum(column) for column in zip(*map(_counts, memories), strict=True)] or [0, 0, 0, 0]
        for memory in memories:
            if memory.status != "active" or memory.utility.recalls < self.settings.min_recalls:
                continue
            recalls, wins, *_ = _counts(memory)
            n, n_wins, source = totals[2], totals[3], "withheld"
            if n < self.settings.min_others:
                n, n_wins, source = totals[0] - recalls, totals[1] - wins, "other"
            if n < self.settings.min_others:
                continue
            certainty = probability_below(n_wins / n, wins, recalls)
            if certainty >= self.settings.level:
                yield (
                    memory.id,
                    "quarantined",
                    f"{wins} of {recalls} tasks that recalled it succeeded against {n_wins} of {n} {source} "
                    f"ones; its win rate is lower with probability {certainty:.3f}",
                )


class TtlSettings(Value):
    """`[refiner.ttl]`."""

    days: float = Field(default=90.0, gt=0)
    """Age at which a memory expires."""
    kinds: tuple[MemoryKind, ...] = ("fact",)
    """Kinds that expire; facts age, procedures do not."""
    unused_only: bool = False
    """Whether a memory that some graded task has recalled is spared."""


class TtlRefiner:
    """Quarantine memories of some kinds when they are too old to be believed unseen."""

    name = "ttl"

    def __init__(self, settings: TtlSettings | None = None, clock: Callable[[], datetime] = now) -> None:
        self.settings = settings or TtlSettings()
        self._clock = clock

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[tuple[str, str, str]]:
        """Yield `(memory id, "quarantined", reason)`."""
        oldest = self._clock() - timedelta(days=self.settings.days)
        for memory in memories:
            is_spared = self.settings.unused_only and memory.utility.recalls > 0
            if memory.status != "active" or memory.kind not in self.settings.kinds or is_spared:
                continue
            if memory.created_at < oldest:
                reason = f"learnt on {memory.created_at:%Y-%m-%d}, over {self.settings.days:g} days ago"
                yield memory.id, "quarantined", reason


def probability_below(rate: float, wins: int, n: int) -> float:
    """Return P(p < rate) for p ~ Beta(1 + wins, 1 + n - wins).

    Exact for whole numbers: it equals P(Binomial(n + 1, rate) > wins).
    """
    if rate <= 0.0 or rate >= 1.0:
        return float(rate >= 1.0)
    log_p, log_q, m = math.log(rate), math.log1p(-rate), n + 1
    terms = (
        math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) + i * log_p + (m - i) * log_q
        for i in range(wins + 1, m + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def build_utility_prune(settings: UtilityPruneSettings, kit: Any) -> UtilityPruneRefiner:
    """Make the component `utility-prune`."""
    return UtilityPruneRefiner(settings)


def build_ttl(settings: TtlSettings, kit: Any) -> TtlRefiner:
    """Make the component `ttl`."""
    return TtlRefiner(settings)


def _counts(memory: Memory) -> tuple[int, int, int, int]:
    u = memory.utility
    return u.recalls, u.wins, u.held_out, u.held_out_wins
