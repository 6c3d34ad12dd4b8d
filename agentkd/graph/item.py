"""Store items as memories: what is kept, what agents read of it, and what it is found by."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agentkd.errors import DataError
from agentkd.ledger.item import ITEM_ORIGIN
from agentkd.schema import Memory, MemoryKeys, Scope, canonical_json, sortable_id

__all__ = ["memory_of", "plain_value", "texts_of", "words_of"]

_WORDS = ("content", "memory", "text")
"""Fields that hold what a memory says, in the shapes of LangMem and mem0."""


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


def texts_of(value: Mapping[str, Any], index: Any, fields: Sequence[str]) -> list[str]:
    """Return the texts that a search compares: those of the item's own fields, else of the store's."""
    from langgraph.store.base import get_text_at_path

    if index is False:
        return []
    paths = fields if index is None else index
    return [text for path in paths for text in get_text_at_path(value, path) if text.strip()]


def plain_value(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a value as plain JSON data; raises DataError for what JSON cannot say exactly."""
    try:
        _check(value, where)
        plain: dict[str, Any] = json.loads(json.dumps(value, default=dict))
    except RecursionError as error:
        raise DataError(f"{where}: the value holds itself or is nested too deeply") from error
    return plain


def _check(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise DataError(
                    f"{where}: a field is named by {type(key).__name__} `{key!r}`, not by a string"
                )
            _check(inner, where)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check(inner, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: JSON has no number `{value}`", hint="store it as a string or as null")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise DataError(
            f"{where}: a {type(value).__name__} is no JSON value", hint="turn it into text or numbers first"
        )
