"""Whose a memory is outside of a workspace: what free-form formats say of it, and what others must not hold.

A claim of a file is narrowed by the options of the import like any other scope; a claim that cannot be read
makes its entry unreadable, so that a misspelt field never opens a memory to everybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agentkd.interop.source import RecordError
from agentkd.schema import Memory, Scope

__all__ = ["CLAIM", "Claim", "claim_of", "claimed", "left_out", "why_left_out"]

CLAIM = "agentkd_scope"
"""Field of free-form metadata that says whose a memory is."""

_UNSCOPED = ("ace", "skill")
_INDEXED = ("pack", "langmem")
_PRIVACY = "privacy"


class Claim(NamedTuple):
    """What a record says of whose it is."""

    scope: Scope
    """Its scope."""
    privacy: str
    """`shared` or `private`."""


def claim_of(memory: Memory, told: Scope) -> dict[str, str]:
    """Return the claim to write; empty where the format's own fields, which tell `told`, say all of it."""
    privacy = "private" if memory.scope.user else memory.privacy
    if memory.scope == told and privacy == ("private" if told.user else "shared"):
        return {}
    return {name: value for name, value in memory.scope if value} | {_PRIVACY: privacy}


def claimed(fields: Mapping[str, Any]) -> Claim | None:
    """Return the claim of a record's metadata, None where it makes none; RecordError for a faulty one."""
    said = fields.get(CLAIM)
    if said is None:
        return None
    names = (*Scope.model_fields, _PRIVACY)
    if not isinstance(said, Mapping) or not all(n in names and isinstance(v, str) for n, v in said.items()):
        raise RecordError(f"`{CLAIM}` is no object of texts named {', '.join(f'`{name}`' for name in names)}")
    privacy = said.get(_PRIVACY, "private")
    if privacy not in ("shared", "private"):
        raise RecordError(f"`{CLAIM}` names the privacy `{privacy}`; there are `shared` and `private`")
    return Claim(Scope(**{name: said.get(name, "") for name in Scope.model_fields}), privacy)


def left_out(memories: Iterable[Memory], format_: str, asked: Scope | None = None) -> dict[str, str]:
    """Return why memories stay out of a file of this format, by their ids; empty where all may go in.

    A playbook or a skill cannot say whose a memory is, so that everybody would have it. `asked` is whose
    memories the caller named: that is the caller's choice, but for private ones in a skill. Only packs and
    store items can say that an item is not to be found by its words.
    """
    found = {memory.id: _fault(memory, format_, asked or Scope()) for memory in memories}
    return {id_: why for id_, why in found.items() if why}


def why_left_out(faults: Mapping[str, str]) -> str:
    """Return the reasons with the number of memories of each."""
    return ", ".join(f"{n} {why}" for why, n in sorted(Counter(faults.values()).items()))


def _fault(memory: Memory, format_: str, asked: Scope) -> str:
    if format_ not in _INDEXED and not memory.when_to_use.strip() and not memory.keys.texts():
        return "not to be found by words"
    if format_ not in _UNSCOPED:
        return ""
    scope = memory.scope
    is_named = bool(scope.user) and scope.user == asked.user
    if memory.privacy == "private" and not (is_named and format_ != "skill"):
        return "private"
    others = (n for n in ("user", "tenant", "agent") if getattr(scope, n) not in ("", getattr(asked, n)))
    return next((f"of one {name}" for name in others), "")
