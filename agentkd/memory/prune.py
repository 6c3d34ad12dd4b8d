"""The refiner `utility-prune`: what harms, idles or overflows leaves, by measured lift, and can come back.

A memory goes from `active` to `quarantined`, where nothing recalls it, and after a while to `tombstone`.
Both stay in the ledger: a person can make them active again at any time, and so does new evidence for what
this refiner had quarantined where nothing measured speaks against it. What was put away for its age or for
want of room alone is active again once it is learnt again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from pydantic import Field

from agentkd.memory.company import Company
from agentkd.memory.lift import lifts_of, rank_of
from agentkd.memory.refine import learnt_at
from agentkd.protocols import Kit
from agentkd.schema import Lift, Memory, MemoryEdit, Standing, Use, Value, now

__all__ = ["UtilityPruneRefiner", "UtilityPruneSettings", "build"]


class UtilityPruneSettings(Value):
    """`[refiner.utility-prune]`; the certainty is `[memory] trial_level`."""

    min_recalls: int = Field(default=5, ge=1)
    """Graded tasks that must have seen a memory before it is judged."""
    min_withheld: int = Field(default=3, ge=1)
    """Graded tasks that must have had it withheld: without them nothing is known of what it is worth."""
    strength: float = Field(default=2.0, gt=0.0)
    """Tasks that the prior is worth, which is centred on the success of the scope's withheld tasks."""
    useless_tasks: int = Field(default=20, ge=1)
    """Graded tasks that must have recalled a memory, seen or withheld, before it is called useless."""
    useless_withheld: int = Field(default=5, ge=1)
    """Those of them that must have had it withheld."""
    band: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Lift up to which a memory counts as useless."""
    useless_above: float = Field(default=0.6, ge=0.0, lt=1.0)
    """A memory is useless where its lift is below `band` with a probability above this."""
    keep: int = Field(default=100, ge=0)
    """So many of the best, by lift and then by support, are never called useless."""
    max_pool: int = Field(default=10_000, ge=1)
    """Active memories above this number are quarantined: first what nobody recalls, then the worst."""
    unused_days: float = Field(default=30.0, ge=0.0)
    """Age at which a memory that no graded task has recalled may be put out of a full pool."""
    quarantine_days: float = Field(default=14.0, ge=0.0)
    """Days in quarantine after which a memory becomes a tombstone."""


class UtilityPruneRefiner:
    """Quarantine memories by their measured lift, keep the pool bounded, and bury what stayed away.

    Lift compares the tasks that saw a memory with those from which a trial withheld it alone. Harmful is
    a memory whose lift is negative with certainty `[memory] trial_level`, or whose upper bound is below 0;
    useless one that has been seen often and is more likely than not worth no more than `band`. The worst
    leave first, and what was measured in the company of one that has left counts for none of the others.
    """

    name = "utility-prune"

    def __init__(
        self, settings: UtilityPruneSettings | None = None, clock: Callable[[], datetime] = now
    ) -> None:
        self.settings = settings or UtilityPruneSettings()
        self._clock = clock

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield one edit of status per memory, with the figures that it rests on."""
        settings, level = self.settings, kit.settings.memory.trial_level
        lifts = lifts_of(memories, level=level, band=settings.band, strength=settings.strength)
        company = Company(memories, level=level, band=settings.band, strength=settings.strength)
        active = sorted((m for m in memories if m.status == "active"), key=lambda m: rank_of(m, lifts[m.id]))
        best = {memory.id for memory in active[: settings.keep]}
        faulty = [m for m in active if self._fault(lifts[m.id], is_best=m.id in best)]
        uses = kit.uses(memory.id for memory in faulty)
        for memory in reversed(faulty):  # the worst first
            reason = self._fault(company.lift(memory, uses[memory.id]), is_best=memory.id in best)
            if reason:
                company.gone.add(memory.id)
                yield _edit(memory, "quarantined", reason)
        left = [memory for memory in active if memory.id not in company.gone]
        yield from self._overflow(left, kit)
        away = [m for m in memories if m.status == "quarantined"]
        away.sort(key=lambda m: rank_of(m, lifts[m.id]))
        yield from self._quarantined(away, company, self.settings.max_pool - len(left), kit)

    def _fault(self, lift: Lift, *, is_best: bool) -> str:
        """Return why a memory of this lift is to leave; empty for one that may stay."""
        settings = self.settings
        if lift.n_with < settings.min_recalls or lift.n_without < settings.min_withheld:
            return ""
        if _is_harmful(lift):
            return f"harmful: lift {lift.text()}; it is negative with probability {lift.p_negative:.3f}"
        n_tasks = lift.n_with + lift.n_without
        is_tried = n_tasks >= settings.useless_tasks and lift.n_without >= settings.useless_withheld
        if is_tried and not is_best and lift.p_idle > settings.useless_above:
            return (
                f"useless: lift {lift.text()}; it is below {settings.band:g} with probability "
                f"{lift.p_idle:.3f}"
            )
        return ""

    def _overflow(self, ranked: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Put out what a full pool has no room for; `ranked` holds the active memories, best first."""
        excess = len(ranked) - self.settings.max_pool
        if excess <= 0:
            return
        old = self._clock() - timedelta(days=self.settings.unused_days)
        idle = [m for m in ranked if not (m.utility.recalls or m.utility.held_out)]
        standings = kit.standings(memory.id for memory in idle)
        since = {memory.id: learnt_at(memory, standings.get(memory.id)) for memory in idle}
        unused = [memory for memory in idle if since[memory.id] < old]
        unused.sort(key=lambda m: (m.support, since[m.id], m.id))
        ids = {memory.id for memory in unused}
        others = [memory for memory in reversed(ranked) if memory.id not in ids]
        for memory in unused[:excess]:
            yield _edit(
                memory,
                "quarantined",
                f"unused: no task has recalled it since {since[memory.id]:%Y-%m-%d}, and the pool holds "
                f"{len(ranked)} memories for {self.settings.max_pool}",
            )
        for memory in others[: max(0, excess - len(unused))]:
            yield _edit(
                memory,
                "quarantined",
                f"no room: among the worst of {len(ranked)} memories in a pool for {self.settings.max_pool}",
            )

    def _quarantined(
        self, ranked: Sequence[Memory], company: Company, room: int, kit: Kit
    ) -> Iterator[MemoryEdit]:
        """Bring back what new evidence speaks for, as far as the pool has room; bury what stayed too long."""
        standings = kit.standings(memory.id for memory in ranked)
        learnt = [m.id for m in ranked if (s := standings.get(m.id)) is not None and _has_new_evidence(s)]
        uses = kit.uses(learnt)
        last = self._clock() - timedelta(days=self.settings.quarantine_days)
        for memory in ranked:
            standing = standings.get(memory.id)
            if standing is None:
                continue
            is_held = memory.trust == "untrusted" or standing.is_doubtful  # a person alone lets it out
            is_own = standing.reason.startswith(f"{self.name}: ")  # not a person's, an import's or another's
            may_return = memory.id in uses and is_own and not is_held
            if room > 0 and may_return and self._is_cleared(memory, company, uses[memory.id]):
                room -= 1
                yield _edit(memory, "active", "it has new evidence, and nothing measured speaks against it")
            elif standing.changed_at < last:
                yield _edit(
                    memory,
                    "tombstone",
                    f"in quarantine since {standing.changed_at:%Y-%m-%d}: {standing.reason}",
                )

    def _is_cleared(self, memory: Memory, company: Company, uses: Sequence[Use]) -> bool:
        """Whether nothing that was measured in the company of now speaks against a memory."""
        return not self._fault(company.lift(memory, uses), is_best=False)


def build(settings: UtilityPruneSettings, kit: Kit) -> UtilityPruneRefiner:
    """Make the component `utility-prune`."""
    return UtilityPruneRefiner(settings)


def _is_harmful(lift: Lift) -> bool:
    return lift.p_negative >= lift.level or lift.high < 0.0


def _has_new_evidence(standing: Standing) -> bool:
    return standing.evidence_at is not None and standing.evidence_at > standing.changed_at


def _edit(memory: Memory, status: str, reason: str) -> MemoryEdit:
    return MemoryEdit.model_validate({"ids": (memory.id,), "status": status, "reason": reason})
