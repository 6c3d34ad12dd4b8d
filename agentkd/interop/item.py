"""Items of stores: taken out of a file under their namespace and key, as a `put` of our own store would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple

from agentkd.errors import DataError, PluginError, StoreError
from agentkd.interop.candidate import moment
from agentkd.interop.imported import Item
from agentkd.memory import Admission
from agentkd.memory.item import admitted_item, item_name, scope_of, space_of
from agentkd.schema import Memory, Scope, canonical_json, now

if TYPE_CHECKING:
    from agentkd.ledger import Ledger
    from agentkd.memory import MemoryStore

__all__ = ["Put", "admit_items", "base_of", "index_of", "is_held", "life_of", "stored_item", "with_life"]

_LONGEST = 1e9  # minutes


class Put(NamedTuple):
    """An item on its way into a store."""

    place: int
    """Position of its entry in the file."""
    memory_id: str
    """Id that the file gave it."""
    item: Item
    """What the key shall hold."""
    base: Scope
    """Scope of the workspace whose store it is for."""
    note: dict[str, Any]
    """Extras that say where it comes from."""


def index_of(value: Any) -> Any:
    """Return how an item is searched; what nobody can read is not found by its words."""
    is_paths = isinstance(value, list) and all(isinstance(path, str) for path in value)
    return value if value is None or is_paths else False


def stored_item(memory: Memory) -> Item | None:
    """Return the item that a memory of our own store is; None for any other memory."""
    from agentkd.ledger.item import ITEM_ORIGIN

    labels, key, value = (memory.extras.get(name) for name in ("namespace", "key", "value"))
    if memory.origin != ITEM_ORIGIN or not isinstance(labels, list) or not isinstance(value, dict):
        return None
    if not labels or not all(isinstance(n, str) and n and "." not in n and "\0" not in n for n in labels):
        return None
    if not isinstance(key, str) or not key:
        return None
    index, at = index_of(memory.extras.get("index")), memory.created_at
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    life = life_of(memory.extras)
    return Item(namespace=tuple(labels), key=key, value=value, index=index, at=at, **life)


def with_life(memories: Iterable[Memory], ledger: Ledger) -> list[Memory]:
    """Return memories of which the items of a store say in their extras how long they live."""
    found = list(memories)
    lives = ledger.items.lives(memory.id for memory in found)
    told = {id_: {"ttl_minutes": ttl, "expires_at": until.isoformat()} for id_, (ttl, until) in lives.items()}
    return [m.model_copy(update={"extras": {**m.extras, **told[m.id]}}) if m.id in told else m for m in found]


def life_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long an item lives, as a record says it; empty for ever."""
    ttl, until = fields.get("ttl_minutes"), moment(fields.get("expires_at"))
    if until is None or not isinstance(ttl, (int, float)) or not 0 < ttl < _LONGEST:
        return {}
    return {"ttl_minutes": float(ttl), "expires_at": until}


def base_of(scope: Scope, namespace: Sequence[str]) -> Scope | None:
    """Return the scope of the workspace that an item is of; None where it lies outside of its namespace."""
    path = ".".join(namespace)
    if scope.user == path:
        return scope.model_copy(update={"user": ""})
    user = scope.user.removesuffix(f"..{path}")
    base = scope.model_copy(update={"user": user})
    return base if user and scope_of(namespace, base) == scope else None


def is_held(put: Put, ledger: Ledger) -> bool:
    """Whether the key holds this value already."""
    there = ledger.items.get(space_of(put.base), put.item.namespace, put.item.key, now())
    return there is not None and _said(there.extras) == _said(_extras(put.item))


def admit_items(puts: Sequence[Put], store: MemoryStore, ledger: Ledger) -> dict[int, Admission]:
    """Put items into the stores that they are for, all in one transaction, and answer for each by its place.

    A value that a key took on here after the file's stays, and what was revoked here does not come back.
    """
    if not puts:
        return {}
    judged = {put.place: _judged(put, store) for put in puts if not is_held(put, ledger)}
    with ledger.transaction():
        revoked = {
            (memory.scope, item.namespace, item.key, _said(memory.extras))
            for memory in ledger.memories.list("revoked", kinds=("fact",), current=False)
            if (item := stored_item(memory)) is not None
        }
        return {put.place: _admitted(put, judged.get(put.place), store, ledger, revoked) for put in puts}


def _judged(put: Put, store: MemoryStore) -> Memory | Admission:
    """Return the memory that an item becomes, or why plugins keep it out."""
    item, base, at = put.item, put.base, min(put.item.at, now())
    try:
        return admitted_item(
            store.hooks, item.namespace, item.key, item.value,
            base=base, index=item.index, made_at=at, note=put.note,
        )  # fmt: skip
    except PluginError as error:
        return Admission(memory_id=put.memory_id, outcome="failed", reason=error.message)
    except DataError as error:
        return _refused(put, error.message)


def _admitted(
    put: Put, judged: Memory | Admission | None, store: MemoryStore, ledger: Ledger, revoked: set[Any]
) -> Admission:
    item, at, space = put.item, now(), space_of(put.base)
    name, said = item_name(item.namespace, item.key), _said(_extras(item))
    if item.expires_at is not None and item.expires_at <= at:
        return _refused(put, f"the time to live of {name} is over since {item.expires_at.isoformat()}")
    there = ledger.items.get(space, item.namespace, item.key, at)
    if there is not None and _said(there.extras) == said:
        return Admission(memory_id=there.memory_id, outcome="merged", reason=f"{name} holds this value")
    if there is not None and ledger.memories.get(there.memory_id).created_at > item.at:
        return _refused(put, f"{name} holds a later value here")
    if (scope_of(item.namespace, put.base), item.namespace, item.key, said) in revoked:
        return _refused(put, f"{name} was revoked with this value")
    judged = judged or _judged(put, store)  # what was held a moment ago was not judged
    if isinstance(judged, Admission):
        return judged
    try:
        ledger.items.put(space, item.namespace, item.key, judged, at, item.ttl_minutes, item.expires_at)
    except (DataError, StoreError) as error:
        return _refused(put, error.message)
    held = ledger.items.get(space, item.namespace, item.key, at)
    return Admission(memory_id=held.memory_id if held is not None else put.memory_id, outcome="stored")


def _refused(put: Put, reason: str) -> Admission:
    return Admission(memory_id=put.memory_id, outcome="rejected", reason=reason)


def _extras(item: Item) -> dict[str, Any]:
    return {"value": item.value, "index": item.index}


def _said(extras: Mapping[str, Any]) -> str:
    """Return what a key holds as the ledger keeps it, without secrets."""
    from agentkd.ledger.redact import redact_json, redact_secrets

    held = {name: extras.get(name) for name in ("value", "index")}
    return canonical_json(redact_json(held, redact_secrets)[0])
