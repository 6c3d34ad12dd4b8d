"""Offer imported memories to a workspace's store, like any other candidates: judged, merged, redacted.

What a foreign store claims is kept where it can be checked or does no harm, and dropped where it could not:
evidence that this ledger does not hold does not count as support, uses and trials of elsewhere measure
nothing here, and statuses cannot bypass quarantine.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from agentkd.interop.candidate import IMPORT, counts_of
from agentkd.interop.evidence import known_corrections
from agentkd.interop.imported import Imported, Skipped
from agentkd.memory import Admission
from agentkd.schema import Evidence, Memory, MemoryStatus, Scope, Utility, Value, memory_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger
    from agentkd.memory import MemoryStore

__all__ = ["ImportReport", "admit_imported", "preview"]

_TAKEN_BACK = ("revoked", "tombstone")


class ImportReport(Value):
    """What became of every entry of a foreign file."""

    path: str
    """File or folder."""
    format: str
    """Its format."""
    n: int
    """Entries, readable or not."""
    outcomes: dict[str, int]
    """Number of memories by outcome: stored, merged, rejected, failed; `new` and `known` of a dry run."""
    answers: tuple[Admission, ...] = ()
    """One answer per readable entry, in the order of the file; empty for a dry run."""
    skipped: tuple[Skipped, ...] = ()
    """Entries that could not be read."""
    is_dry: bool = False
    """Whether nothing was stored."""


def admit_imported(
    imported: Imported,
    store: MemoryStore,
    ledger: Ledger,
    *,
    scope: Scope | None = None,
    quarantine: bool = False,
) -> ImportReport:
    """Admit all readable entries in one transaction and answer for each; a second time nothing new is stored.

    Args:
        imported: What a reader gave.
        store: The workspace's memories.
        ledger: Their ledger; evidence that it lacks is left out.
        scope: Fields that it sets replace those of every entry. Fields that neither names are the
            workspace's, save for a memory pack, whose scopes are already ours.
        quarantine: Store as quarantined: kept, searched for copies, and never recalled until a person admits
            them; `[trust] imports = "quarantined"` does so for every file. What they name as evidence counts
            for nothing then.
    """
    held = quarantine or (store.trust.gate and store.trust.imports == "quarantined")
    memories, taken_back = _prepared(imported, store.settings.scope, ledger, scope or Scope(), held)
    answers = iter(store.admit(memories, vouched=not held))
    ordered = [taken_back.get(i) or next(answers) for i in range(len(imported.memories))]
    return ImportReport(
        path=imported.path,
        format=imported.format,
        n=len(imported.memories) + len(imported.skipped),
        outcomes=dict(sorted(Counter(answer.outcome for answer in ordered).items())),
        answers=tuple(ordered),
        skipped=imported.skipped,
    )


def preview(imported: Imported, own: Scope, ledger: Ledger, *, scope: Scope | None = None) -> ImportReport:
    """Count what an import would offer, without storing: entries that are known by id, and new ones.

    Near copies and refusals of plugins show only when the memories are judged.
    """
    memories, taken_back = _prepared(imported, own, ledger, scope or Scope(), False)
    known = {memory.id for memory in ledger.memories.get_many(memory.id for memory in memories)}
    fresh = {memory.id for memory in memories} - known
    counts = {
        "known": len(memories) - len(fresh),  # known here, or a copy within the file
        "new": len(fresh),
        "rejected": len(taken_back),
    }
    return ImportReport(
        path=imported.path,
        format=imported.format,
        n=len(imported.memories) + len(imported.skipped),
        outcomes={name: n for name, n in counts.items() if n},
        skipped=imported.skipped,
        is_dry=True,
    )


def _prepared(
    imported: Imported, own: Scope, ledger: Ledger, scope: Scope, quarantine: bool
) -> tuple[list[Memory], dict[int, Admission]]:
    """Return the candidates, and answers by position for what a pack says was taken back."""
    known = _known_evidence(imported.memories, ledger)
    parents = {m.id for m in ledger.memories.get_many(m.parent for m in imported.memories if m.parent)}
    memories: list[Memory] = []
    taken_back: dict[int, Admission] = {}
    base = Scope() if imported.format == "pack" else own
    for i, (memory, place) in enumerate(zip(imported.memories, imported.places, strict=True)):
        if memory.status in _TAKEN_BACK:
            reason = f"it was taken back where it comes from: its status is `{memory.status}`"
            taken_back[i] = Admission(memory_id=memory.id, outcome="rejected", reason=reason)
            continue
        if memory.counters:
            reason = "it speaks against a memory that was revoked where it comes from"
            taken_back[i] = Admission(memory_id=memory.id, outcome="rejected", reason=reason)
            continue
        evidence = Evidence() if quarantine else _only(memory.evidence, known)  # a claim, and nobody vouches
        note = {"format": imported.format, "path": imported.path, "place": place, **_claimed(memory)}
        where = _united(memory.scope, base, scope)
        changes = {
            "scope": where,
            "id": memory_id(memory.kind, memory.when_to_use, memory.content, where),
            "evidence": evidence,
            "support": len(evidence.trajectories),
            "utility": Utility(),  # what is measured here is compared with what was withheld here
            "status": _status(memory, quarantine),
            "privacy": "private" if where.user else memory.privacy,
            "extras": {**memory.extras, IMPORT: note},
        }
        if memory.parent not in parents:
            changes |= {"parent": "", "version": 1}
        memories.append(memory.model_copy(update=changes))
    return memories, taken_back


def _claimed(memory: Memory) -> dict[str, int]:
    """Return the counts of elsewhere: they are kept for the way back and measure nothing here."""
    used = counts_of(memory)
    claimed = {"support": memory.support, "recalls": used.recalls, "wins": used.wins}
    return {name: n for name, n in claimed.items() if n or name == "support"}


def _status(memory: Memory, quarantine: bool) -> MemoryStatus:
    """Return the status to ask for; what was compiled elsewhere is not in the weights that serve here."""
    return "quarantined" if quarantine or memory.status == "quarantined" else "active"


def _united(stated: Scope, base: Scope, override: Scope) -> Scope:
    names = Scope.model_fields
    return Scope(**{n: getattr(override, n) or getattr(stated, n) or getattr(base, n) for n in names})


def _known_evidence(memories: tuple[Memory, ...], ledger: Ledger) -> set[str]:
    """Return the ids of all trajectories and corrections named as evidence that the ledger holds."""
    named = (id_ for memory in memories for id_ in memory.evidence.trajectories)
    found = {trajectory.id for trajectory in ledger.trajectories.get_many(named)}
    stated = (id_ for memory in memories for id_ in memory.evidence.corrections)
    found |= {correction.id for correction in known_corrections(stated, ledger)}
    return found


def _only(evidence: Evidence, known: set[str]) -> Evidence:
    return Evidence(
        trajectories=tuple(id_ for id_ in evidence.trajectories if id_ in known),
        corrections=tuple(id_ for id_ in evidence.corrections if id_ in known),
        steps=tuple(step for step in evidence.steps if step.rpartition(":")[0] in known),
        spans=tuple(span for span in evidence.spans if span.trajectory in known),
    )
