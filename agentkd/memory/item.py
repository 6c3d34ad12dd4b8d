"""Store items as memories: whose they are, what agents read of them, and the door through which they come in.

Everything below a namespace is remembered for that namespace alone: its dotted path is the `user` of the
memories' scope, within the workspace's own scope. An agent that asks with this scope sees them, beside
what the workspace has learnt for all; another one does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agentkd import hookspecs
from agentkd.errors import DataError
from agentkd.plugins import Hooks
from agentkd.schema import Memory, MemoryKeys, Scope, canonical_json, content_id, sortable_id

__all__ = ["admitted_item", "item_name", "memory_of", "scope_of", "space_of", "words_of"]

_WORDS = ("content", "memory", "text")
"""Fields that hold what a memory says, in the shapes of LangMem and mem0."""


def scope_of(namespace: Sequence[str], base: Scope) -> Scope:
    """Return the scope of what is put into a namespace; two namespaces never share one."""
    path = ".".join(namespace)
    return base.model_copy(update={"user": f"{base.user}..{path}" if base.user else path})


def space_of(base: Scope) -> str:
    """Return the name under which the ledger keeps a scope's items apart from those of all others."""
    return content_id("spc", base)


def item_name(namespace: Sequence[str], key: str) -> str:
    """Return an item's name for messages."""
    return f"item `{key}` in `{'.'.join(namespace)}`"


def admitted_item(
    hooks: Hooks,
    namespace: tuple[str, ...],
    key: str,
    value: dict[str, Any],
    *,
    base: Scope,
    index: Any,
    made_at: datetime,
    note: Mapping[str, Any] | None = None,
) -> Memory:
    """Return the memory that plain JSON becomes as the value of a key, once plugins have seen it.

    Plugins may take their time: ask before the ledger is locked.

    Args:
        hooks: Plugins that may refuse it.
        namespace: Labels, from the root.
        key: Name within the namespace.
        value: What the key is to hold.
        base: Scope of the workspace that the store is of.
        index: Paths whose texts are searched; None for the store's own, False for none.
        made_at: Since when the value holds (UTC).
        note: Further `extras` of the memory.

    Raises DataError where a plugin refuses it.
    """
    memory = memory_of(namespace, key, value, index, scope_of(namespace, base), made_at)
    memory = memory.model_copy(update={"extras": {**(note or {}), **memory.extras}})
    refused = hooks.refusals(hookspecs.admit_memory, memory=memory)
    if refused:
        raise DataError(f"{item_name(namespace, key)}: refused by plugin `{'`, `'.join(refused)}`")
    return memory


def memory_of(
    namespace: tuple[str, ...],
    key: str,
    value: dict[str, Any],
    index: Any,
    scope: Scope,
    made_at: datetime,
) -> Memory:
    """Return the fact that an item is: private, so that no student is ever trained on it.

    With `index=False` it has no words to be found by, neither here nor by an agent.
    """
    from agentkd.ledger.item import ITEM_ORIGIN

    words = words_of(value)
    is_found = index is not False
    return Memory(
        id=sortable_id("mem", clock=lambda: made_at),
        kind="fact",
        when_to_use=words if is_found else "",
        content=words,
        keys=MemoryKeys(situation=words) if is_found else MemoryKeys(),
        scope=scope,
        confidence=1.0,
        origin=ITEM_ORIGIN,
        privacy="private",
        status="active",
        created_at=made_at,
        extras={"namespace": list(namespace), "key": key, "value": value, "index": index},
    )


def words_of(value: Mapping[str, Any]) -> str:
    """Return what an item says: its `content`, `memory` or `text`, else all of it as JSON."""
    inner = value.get("content")
    if isinstance(inner, Mapping) and "kind" in value:  # LangMem: {"kind": "Memory", "content": {...}}
        return words_of(inner)
    said = [value[name] for name in _WORDS if isinstance(value.get(name), str) and value[name].strip()]
    return said[0] if said else canonical_json(value)
