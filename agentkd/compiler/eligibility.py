"""Which memories may go into weights, and why others may not; rows follow from the memories under them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentkd.compiler.turn import Turn
from agentkd.config import CompileSettings
from agentkd.schema import (
    Hit,
    Lift,
    Memory,
    Place,
    Scope,
    Trajectory,
    lift_of,
    origin_of,
    place_of,
    pooled_prior,
)
from agentkd.schema.lift import UNIFORM, Prior

__all__ = ["EASY", "UNTRUSTED", "Holdings", "fault_of"]

EASY = "the base does it without help"
"""Why a row is left out whose task needs neither memory nor training."""

UNTRUSTED = "untrusted source"
"""Why a memory and the rows of a run stay out that no independent verified success or person stands for."""

_LIVE = ("active", "compiled", "retired")  # a retired memory is in the weights: training anew needs it again
_TAINTED = {"private": "rests on a private memory", "revoked": "rests on a revoked memory"}
_UNSHOWN = "lift not shown"
_AWAY = ("candidate", "quarantined", "tombstone")
_STANDING = (*_AWAY, UNTRUSTED, _UNSHOWN)  # says nothing against the run below it


def fault_of(
    memory: Memory,
    settings: CompileSettings | None = None,
    prior: Prior = UNIFORM,
    places: Mapping[str, Place] | None = None,
) -> str:
    """Return why a memory may not go into weights; empty where it may.

    Args:
        memory: The memory.
        settings: `[compile]`.
        prior: What withheld tasks of its scope achieved: where the posterior of its lift starts.
        places: Where measured memories belong (`agentkd.schema.place_of`).
    """
    settings = settings or CompileSettings()
    if memory.status == "revoked" or memory.privacy == "private":
        return "revoked" if memory.status == "revoked" else "private"
    if memory.trust == "untrusted":
        return UNTRUSTED
    if memory.status not in _LIVE:
        return memory.status
    if memory.kind == "fact":
        return "a fact"
    if memory.kind in ("parameter", "preference") and memory.scope.user and not settings.personal:
        return "of one user"
    if memory.support < settings.min_support:
        return "too little support"
    utility, wanted = memory.utility, settings.lift_tasks
    if min(utility.recalls, utility.held_out) >= wanted and lift_of(utility, prior).low < settings.min_lift:
        return _UNSHOWN
    place = place_of(memory, places or {})
    return {"context": "placed in the context", "neither": "placed nowhere"}.get(place, "")


@dataclass(frozen=True)
class Holdings:
    """The memories of a compilation, looked up by id and by what they rest on."""

    allowed: dict[str, Memory]
    """Memories that may be compiled, by id."""
    kept: frozenset[str]
    """Memories that stay in the context and may be shown to the student."""
    by_source: dict[str, tuple[str, ...]]
    """Ids of allowed memories by trajectory."""
    weighed: dict[str, tuple[str, ...]]
    """Ids of the memories whose lift weighs the rows of a trajectory, by trajectory: the allowed ones, and
    those whose lift alone keeps them out."""
    lifts: dict[str, Lift]
    """Lift of each of these that a trial has measured, by id."""
    forbidden: dict[str, str]
    """Why nothing of a trajectory may be compiled, by trajectory."""
    faults: dict[str, str]
    """Why a memory may not be compiled, by id."""

    @classmethod
    def of(
        cls, memories: Sequence[Memory], settings: CompileSettings, places: Mapping[str, Place] | None = None
    ) -> Holdings:
        """Sort the memories.

        A private or revoked memory forbids the trajectories that it rests on. So does a fact, or one that
        is too weak, personal or placed elsewhere, where no memory that may be compiled rests on the same
        trajectory. Status and lift say nothing against the run itself: the selector `lift` weighs its rows.
        """
        scopes: dict[Scope, list[Memory]] = {}
        for memory in memories:
            scopes.setdefault(memory.scope, []).append(memory)
        priors = {scope: pooled_prior(m.utility for m in group) for scope, group in scopes.items()}
        places = places or {}
        allowed: dict[str, Memory] = {}
        by_source: dict[str, tuple[str, ...]] = {}
        weighed: dict[str, tuple[str, ...]] = {}
        lifts: dict[str, Lift] = {}
        faults: dict[str, str] = {}
        tainted: dict[str, str] = {}
        weak: dict[str, str] = {}
        for memory in sorted(memories, key=lambda m: m.id):
            sources = memory.evidence.trajectories
            fault = fault_of(memory, settings, priors[memory.scope], places)
            if fault in ("", _UNSHOWN):
                weighed.update({source: (*weighed.get(source, ()), memory.id) for source in sources})
                if memory.utility.recalls and memory.utility.held_out:
                    lifts[memory.id] = lift_of(memory.utility, priors[memory.scope])
            if not fault:
                allowed[memory.id] = memory
                by_source.update({source: (*by_source.get(source, ()), memory.id) for source in sources})
                continue
            faults[memory.id] = fault
            if fault in _TAINTED:
                tainted.update(dict.fromkeys(sources, _TAINTED[fault]))
            elif fault not in _STANDING:
                weak.update({source: f"memory: {fault}" for source in sources if source not in weak})
        forbidden = {source: fault for source, fault in weak.items() if source not in by_source} | tainted
        kept = frozenset(
            m.id
            for m in memories
            if settings.show_facts
            and m.status in _LIVE
            and m.privacy == "shared"
            and (settings.personal or not m.scope.user)
            and place_of(m, places) in ("context", "both")
        )
        return cls(allowed, kept, by_source, weighed, lifts, forbidden, faults)

    def refusal(self, trajectory: Trajectory) -> str:
        """Return why nothing of a trajectory may be compiled; empty where it may.

        What a teacher wrote falls with every seed and every memory that it was shown.
        """
        origin = origin_of(trajectory)
        seeds, memories = (origin.seeds, origin.memories) if origin else ((), ())
        reasons = [self.forbidden.get(id_, "") for id_ in (trajectory.id, *seeds)]
        reasons += [_TAINTED.get(self.faults.get(id_, ""), "") for id_ in memories]
        return next(filter(None, reasons), "")

    def is_proven(self, turn: Turn, *, is_verified: bool) -> bool:
        """Whether a memory that was let in rests on this very turn; its run's other turns prove nothing.

        A verified run needs a memory that was let in, another one a person who saw it in the evidence. What
        a file claims of its runs nobody sees there.
        """
        run = turn.trajectory
        for id_ in self.by_source.get(run.id, ()):
            memory = self.allowed[id_]
            evidence = memory.evidence
            if is_verified and memory.trust in ("admitted", "corroborated"):
                named = (*evidence.trajectories, *evidence.steps)
            elif memory.trust == "admitted" and not run.imported_from:
                named = evidence.vouched
            else:
                continue
            steps = [step for step in named if step.rpartition(":")[0] == run.id]
            if f"{run.id}:{turn.step}" in steps or (run.id in named and not steps and len(run.steps) <= 1):
                return True
        return False

    def under(self, turn: Turn) -> tuple[str, ...]:
        """Return the allowed memories that rest on a turn's trajectories."""
        found = [id_ for trajectory in turn.trajectories for id_ in self.by_source.get(trajectory, ())]
        return tuple(dict.fromkeys(found))

    def harm(self, turn: Turn) -> list[float]:
        """Return the probability of harm of each measured memory that rests on a turn's trajectories."""
        ids = [id_ for trajectory in turn.trajectories for id_ in self.weighed.get(trajectory, ())]
        return [self.lifts[id_].p_negative for id_ in dict.fromkeys(ids) if id_ in self.lifts]

    def shown(self, hits: Sequence[Hit], blocked: frozenset[str]) -> list[Hit]:
        """Return the hits that a row may show, none of which rests on a trajectory in `blocked`."""
        return [
            hit
            for hit in hits
            if (hit.memory.id in self.allowed or hit.memory.id in self.kept)
            and blocked.isdisjoint(hit.memory.evidence.trajectories)
        ]

    def counts(self) -> dict[str, int]:
        """Return how many memories may be compiled, and how many of the others may not by reason."""
        return {"eligible": len(self.allowed), **dict(sorted(Counter(self.faults.values()).items()))}
