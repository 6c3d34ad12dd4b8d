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


def admit_evidence(evidence: Evidences, ledger: Ledger, path: str) -> int:
    """Store the trajectories and corrections that a pack brought and return how many were new.

    They are marked with the file that they came from: what it says of success and of who spoke is a claim.
    Trajectories that are here stay as they are.
    """
    n = 0
    with ledger.transaction():
        there = {t.id for t in ledger.trajectories.get_many(t.id for t in evidence.trajectories)}
        for trajectory in evidence.trajectories:
            if trajectory.id not in there:
                claimed = trajectory.model_copy(update={"imported_from": path})
                ledger.trajectories.begin(claimed)
                n += ledger.trajectories.finish(claimed)
                there.add(trajectory.id)
        said = [c for c in evidence.corrections if c.trajectory_id in there]
        n += sum(ledger.corrections.add(c.model_copy(update={"imported_from": path})) for c in said)
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
