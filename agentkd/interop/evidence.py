"""The trajectories and corrections that memories rest on, out of a ledger and into another one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agentkd.errors import DataError, NotFoundError
from agentkd.interop.pack import Evidences
from agentkd.schema import Correction, Memory, Trajectory, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["admit_evidence", "evidence_of", "ids_here", "known_corrections"]


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
    They get ids of their own, as do the runs: what a file calls a run of ours stands in for none. What is
    here stays as it is. Raises DataError for a held-out task, on which no lesson rests.
    """
    held = next((t.task for t in evidence.trajectories if t.task.is_held_out), None)
    if held is not None:
        raise DataError(
            f"`{path}` brings a run of the held-out task `{held.id}`: no lesson rests on one",
            hint="nothing was imported; leave --evidence out",
            path=path,
            task=held.id,
        )
    n = 0
    with ledger.transaction():
        there = ids_here((t.id for t in evidence.trajectories), (), ledger)
        for trajectory in evidence.trajectories:
            if trajectory.id not in there:
                there[trajectory.id] = _imported_id("tra", trajectory.id)
                run_id = _imported_id("run", trajectory.run_id)
                changes = {"id": there[trajectory.id], "run_id": run_id, "imported_from": path}
                claimed = trajectory.model_copy(update=changes)
                ledger.trajectories.begin(claimed)
                n += ledger.trajectories.finish(claimed)
        known = ids_here((), (c.id for c in evidence.corrections), ledger)
        for correction in evidence.corrections:
            if correction.id not in known and correction.trajectory_id in there:
                changes = {"id": _imported_id("cor", correction.id), "imported_from": path}
                changes["trajectory_id"] = there[correction.trajectory_id]
                n += ledger.corrections.add(correction.model_copy(update=changes))
    return n


def ids_here(trajectories: Iterable[str], corrections: Iterable[str], ledger: Ledger) -> dict[str, str]:
    """Return, by what a file calls them, the ids of those trajectories and corrections that are here."""
    runs = {id_: _imported_id("tra", id_) for id_ in trajectories}
    said = {id_: _imported_id("cor", id_) for id_ in corrections}
    there = {t.id for t in ledger.trajectories.get_many([*runs, *runs.values()])}
    there |= {c.id for c in known_corrections([*said, *said.values()], ledger)}
    places = {id_: own if own in there else id_ for id_, own in (runs | said).items()}
    return {id_: place for id_, place in places.items() if place in there}


def _imported_id(prefix: str, id_: str) -> str:
    return content_id(prefix, "import", id_)


def known_corrections(ids: Iterable[str], ledger: Ledger) -> list[Correction]:
    """Return the corrections with these ids, each once; unknown ids are left out."""
    found = []
    for id_ in dict.fromkeys(ids):
        try:
            found.append(ledger.corrections.get(id_))
        except NotFoundError:
            continue
    return found
