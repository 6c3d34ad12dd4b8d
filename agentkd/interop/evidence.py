"""The trajectories and corrections that memories rest on, out of a ledger and into another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentkd.errors import NotFoundError
from agentkd.interop.pack import Evidences
from agentkd.schema import Correction, Memory, Trajectory

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["admit_evidence", "evidence_of", "known_corrections"]


def evidence_of(memories: Iterable[Memory], ledger: Ledger) -> Evidences:
    """Return what the memories rest on, secrets taken out again: patterns may be newer than the ledger."""
    from agentkd.ledger.redact import redact_json, redact_secrets

    found = [memory.evidence for memory in memories]
    corrections = known_corrections((id_ for evidence in found for id_ in evidence.corrections), ledger)
    named = [id_ for evidence in found for id_ in evidence.trajectories]
    named += [correction.trajectory_id for correction in corrections]
    trajectories = ledger.trajectories.get_many(dict.fromkeys(named))

    def cleaned(value: Trajectory | Correction) -> object:
        return redact_json(value.model_dump(mode="json"), redact_secrets, keep=(("id",), ("trajectory_id",)))[
            0
        ]

    return Evidences(
        trajectories=tuple(Trajectory.model_validate(cleaned(trajectory)) for trajectory in trajectories),
        corrections=tuple(Correction.model_validate(cleaned(correction)) for correction in corrections),
    )


def admit_evidence(evidence: Evidences, ledger: Ledger) -> int:
    """Store the trajectories and corrections that a pack brought and return how many were new.

    Trajectories that are here stay as they are.
    """
    n = 0
    with ledger.transaction():
        there = {t.id for t in ledger.trajectories.get_many(t.id for t in evidence.trajectories)}
        for trajectory in evidence.trajectories:
            if trajectory.id not in there:
                ledger.trajectories.begin(trajectory)
                n += ledger.trajectories.finish(trajectory)
                there.add(trajectory.id)
        n += sum(ledger.corrections.add(c) for c in evidence.corrections if c.trajectory_id in there)
    return n


def known_corrections(ids: Iterable[str], ledger: Ledger) -> list[Correction]:
    """Return the corrections with these ids, each once; unknown ids are left out."""
    found = []
    for id_ in dict.fromkeys(ids):
        try:
            found.append(ledger.corrections.get(id_))
        except NotFoundError:
            continue
    return found
