"""Carry out what refiners propose: every edit is one event with its reason, and can be undone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from agentkd import hookspecs
from agentkd.errors import PluginError
from agentkd.hooks import Hooks
from agentkd.memory.status import INDEXED
from agentkd.protocols import Kit, Refiner
from agentkd.schema import Memory, MemoryEdit, Value

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["EDITABLE", "Edit", "apply_refiner"]

EDITABLE = ("active", "quarantined", "retired", "tombstone", "revoked")
"""Statuses that a refiner may set."""


class Edit(Value):
    """A change that a refiner made to one memory, or would have made."""

    memory_id: str
    """The memory."""
    before: str
    """Status for the base model before."""
    status: str
    """Status since; unchanged where another memory took its place."""
    reason: str
    """Refiner and figures."""
    replacement: str = ""
    """Id of the memory that took its place; empty for a change of status."""
    refusal: str = ""
    """Why the memory that was to take its place was not let in; empty for an edit that was made."""


def apply_refiner(refiner: Refiner, kit: Kit, ledger: Ledger, hooks: Hooks) -> list[Edit]:
    """Let one refiner judge all current memories but items of a store, and make its edits in one transaction.

    A plugin that refuses candidates may refuse new words, too. Such an edit is not made, and says so.
    Raises PluginError for an edit that a refiner may not make; then nothing is changed.
    """
    known = {memory.id: memory for memory in ledger.memories.list() if _is_given(memory)}
    proposed = list(refiner.refine(tuple(known.values()), kit))
    for edit in proposed:
        _check(refiner.name, edit, known)
    refusals = [_refusal(edit, known, hooks) for edit in proposed]  # before the ledger is locked
    made: list[Edit] = []
    with ledger.transaction():
        taken_back = [
            (kind, ids)
            for who, kind, ids in ledger.memories.overruled()
            if who == refiner.name or kind == "united"  # what `corroborate` merged, `merge` would merge too
        ]
        for edit, refusal in zip(proposed, refusals, strict=True):
            if _is_overruled(edit, taken_back):
                continue
            reason = f"{refiner.name}: {edit.reason}"
            if refusal:
                made += _unmade(edit, reason, refusal, known)
            else:
                made += _apply(edit, reason, known, ledger)
    return made


def _refusal(edit: MemoryEdit, known: Mapping[str, Memory], hooks: Hooks) -> str:
    """Return why plugins do not let a new memory in; empty where they do, and for any other edit."""
    if edit.replacement is None or edit.replacement.id in known:
        return ""
    try:
        plugins = hooks.refusals(hookspecs.admit_memory, memory=edit.replacement)
    except PluginError as error:
        return error.message
    return f"refused by {', '.join(f'`{name}`' for name in plugins)}" if plugins else ""


def _unmade(edit: MemoryEdit, reason: str, refusal: str, known: Mapping[str, Memory]) -> Iterator[Edit]:
    for id_ in edit.ids:
        status = known[id_].status
        yield Edit(memory_id=id_, before=status, status=status, reason=reason, refusal=refusal)


def _is_given(memory: Memory) -> bool:
    """Whether refiners see a memory: a value of a store belongs to its key, a counter to what was revoked."""
    from agentkd.ledger.item import ITEM_ORIGIN

    return memory.status != "revoked" and memory.origin != ITEM_ORIGIN and not memory.counters


def _is_overruled(edit: MemoryEdit, taken_back: Iterable[tuple[str, frozenset[str]]]) -> bool:
    """Whether a person took the same edit, or a part of it, back."""
    kind = edit.status or ("united" if len(set(edit.ids)) > 1 else "superseded")
    by = {edit.replacement.id} if edit.replacement is not None and kind == "superseded" else set()
    return any(kind == what and ids <= {*edit.ids} | by for what, ids in taken_back)


def _apply(edit: MemoryEdit, reason: str, known: Mapping[str, Memory], ledger: Ledger) -> Iterator[Edit]:
    """Carry an edit out, unless one of its memories was replaced or got another status meanwhile.

    A refiner that asks a model takes minutes, in which a person may put a memory away.
    """
    seen = {*edit.ids} | ({edit.replacement.id} & known.keys() if edit.replacement is not None else set())
    status = ledger.memories.status_for("base", seen)
    if any(status.get(id_) != known[id_].status for id_ in seen):
        return
    if (edit.replacement is not None or edit.status in INDEXED) and _waits(edit, known, ledger):
        return  # no refiner lets out what the provenance gate or a revocation holds back
    if edit.status is not None:
        for id_ in edit.ids:
            if ledger.memories.set_status(id_, edit.status, reason):
                yield Edit(memory_id=id_, before=known[id_].status, status=edit.status, reason=reason)
        return
    assert edit.replacement is not None
    answer = ledger.memories.replace(edit.ids, edit.replacement, reason)
    if answer.outcome == "rejected":
        return
    for id_ in edit.ids:
        if id_ != edit.replacement.id:
            before = known[id_].status
            yield Edit(
                memory_id=id_, before=before, status=before, reason=reason, replacement=edit.replacement.id
            )


def _waits(edit: MemoryEdit, known: Mapping[str, Memory], ledger: Ledger) -> bool:
    if any(known[id_].trust == "untrusted" for id_ in edit.ids):
        return True
    return any(standing.is_doubtful for standing in ledger.memories.standings(edit.ids).values())


def _check(refiner: str, edit: MemoryEdit, known: Iterable[str]) -> None:
    for id_ in edit.ids:
        if id_ not in known:
            raise PluginError(f"refiner `{refiner}` edits `{id_}`, which it was not given", plugin=refiner)
    if not edit.ids or (edit.status is None) == (edit.replacement is None):
        raise PluginError(
            f"refiner `{refiner}` proposes an edit that changes nothing or two things at once",
            hint="an edit names ids and either a status or a replacement",
            plugin=refiner,
        )
    if edit.status is not None and edit.status not in EDITABLE:
        raise PluginError(
            f"refiner `{refiner}` sets `{edit.ids[0]}` to `{edit.status}`",
            hint=f"a refiner sets {', '.join(EDITABLE)}",
            plugin=refiner,
        )
