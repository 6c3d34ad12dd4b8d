"""Offer imported memories to a workspace's store, like any other candidates: judged, merged, redacted.

What a foreign store claims is kept where it can be checked or does no harm, and dropped where it could not:
evidence that this ledger does not hold does not count as support, uses and trials of elsewhere measure
nothing here, and statuses cannot bypass quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentkd.interop.candidate import IMPORT, counts_of
from agentkd.interop.evidence import ids_here
from agentkd.interop.imported import Imported, Item, Skipped
from agentkd.interop.item import Put, admit_items, base_of, is_held
from agentkd.memory import Admission
from agentkd.memory.item import scope_of
from agentkd.schema import Evidence, Memory, Scope, Utility, Value, memory_id

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
    """Admit all readable entries and answer for each; a second time nothing new is stored.

    What a store held goes under its namespace and key into the store of the same scope, as `put` would do it,
    unless `scope` names a user or it is held in quarantine: then it is a memory like others. Memories are
    admitted in one transaction, items in another.

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
    memories, answered, puts = _prepared(imported, store.settings.scope, ledger, scope or Scope(), held)
    answers = iter(store.admit(memories, vouched=not held))
    answered |= admit_items(puts, store, ledger)
    ordered = [answered.get(i) or next(answers) for i in range(len(imported.memories))]
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
    memories, rejected, puts = _prepared(imported, own, ledger, scope or Scope(), False)
    known = {memory.id for memory in ledger.memories.get_many(memory.id for memory in memories)}
    fresh = {memory.id for memory in memories} - known
    n_held = sum(is_held(put, ledger) for put in puts)
    counts = {
        "known": len(memories) - len(fresh) + n_held,  # known here, or a copy within the file
        "new": len(fresh) + len(puts) - n_held,
        "rejected": len(rejected),
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
) -> tuple[list[Memory], dict[int, Admission], list[Put]]:
    """Return the candidates, answers by position for what stays out, and what goes into a store."""
    known = _known_evidence(imported.memories, ledger)
    parents = {m.id for m in ledger.memories.get_many(m.parent for m in imported.memories if m.parent)}
    memories: list[Memory] = []
    answers: dict[int, Admission] = {}
    puts: list[Put] = []
    for i, (memory, place) in enumerate(zip(imported.memories, imported.places, strict=True)):
        item, base = imported.items.get(i), _base(imported, i, own, scope)
        note = {"format": imported.format, "path": imported.path, "place": place}
        is_waiting = quarantine or memory.status == "quarantined"
        is_keyed = item is not None and item.key and base is not None and not scope.user and not is_waiting
        if reason := _refusal(memory, item if not is_keyed else None):
            answers[i] = Admission(memory_id=memory.id, outcome="rejected", reason=reason)
            continue
        if is_keyed and item is not None and base is not None:
            puts.append(Put(i, memory.id, item, base, {IMPORT: note}))
            continue
        if item is not None and base is not None and not scope.user:
            where = scope_of(item.namespace, base)
        else:
            where = _united(memory.scope, Scope() if imported.format == "pack" else own, scope)
        evidence = Evidence() if quarantine else _only(memory.evidence, known)  # a claim, and nobody vouches
        changes = {
            "scope": where,
            "id": memory_id(memory.kind, memory.when_to_use, memory.content, where),
            "evidence": evidence,
            "support": len(evidence.trajectories),
            "utility": Utility(),  # what is measured here is compared with what was withheld here
            "status": "quarantined" if is_waiting else "active",  # compiled elsewhere is not compiled here
            "trust": "untrusted" if quarantine else "",  # without evidence it would be the application's word
            "origin": _origin(memory, imported.format),
            "privacy": "private" if where.user else memory.privacy,
            "extras": {**memory.extras, IMPORT: {**note, **_claimed(memory)}},
        }
        if memory.parent not in parents:
            changes |= {"parent": "", "version": 1}
        memories.append(memory.model_copy(update=changes))
    return memories, answers, puts


def _base(imported: Imported, place: int, own: Scope, scope: Scope) -> Scope | None:
    """Return the scope of the workspace whose store an item is for; None for what is none."""
    item = imported.items.get(place)
    if item is None:
        return None
    stated = base_of(imported.memories[place].scope, item.namespace)
    return None if stated is None else _united(stated, own, scope)


def _refusal(memory: Memory, unkeyed: Item | None) -> str:
    """Return why an entry stays out; `unkeyed` is what a store held, where no key can hold it here."""
    if memory.status in _TAKEN_BACK:
        return f"it was taken back where it comes from: its status is `{memory.status}`"
    if memory.counters:
        return "it speaks against a memory that was revoked where it comes from"
    if unkeyed is not None and unkeyed.index is False:
        return "it is not to be found by its words, and no key can hold it here"
    return ""


def _origin(memory: Memory, format_: str) -> str:
    """Return where a memory is from: only a key makes it a store's, which no refiner may change."""
    from agentkd.ledger.item import ITEM_ORIGIN

    return f"import:{format_}" if memory.origin == ITEM_ORIGIN else memory.origin


def _claimed(memory: Memory) -> dict[str, int]:
    """Return the counts of elsewhere: they are kept for the way back and measure nothing here."""
    used = counts_of(memory)
    claimed = {"support": memory.support, "recalls": used.recalls, "wins": used.wins}
    return {name: n for name, n in claimed.items() if n or name == "support"}


def _united(stated: Scope, base: Scope, override: Scope) -> Scope:
    names = Scope.model_fields
    return Scope(**{n: getattr(override, n) or getattr(stated, n) or getattr(base, n) for n in names})


def _known_evidence(memories: tuple[Memory, ...], ledger: Ledger) -> dict[str, str]:
    """Return the ids here of all trajectories and corrections named as evidence that the ledger holds."""
    named = (id_ for memory in memories for id_ in memory.evidence.trajectories)
    stated = (id_ for memory in memories for id_ in memory.evidence.corrections)
    return ids_here(named, stated, ledger)


def _only(evidence: Evidence, known: Mapping[str, str]) -> Evidence:
    steps = (step.rpartition(":") for step in evidence.steps)
    return Evidence(
        trajectories=tuple(dict.fromkeys(known[id_] for id_ in evidence.trajectories if id_ in known)),
        corrections=tuple(dict.fromkeys(known[id_] for id_ in evidence.corrections if id_ in known)),
        steps=tuple(f"{known[id_]}:{index}" for id_, _, index in steps if id_ in known),
        spans=tuple(
            span.model_copy(update={"trajectory": known[span.trajectory]})
            for span in evidence.spans
            if span.trajectory in known
        ),
    )
