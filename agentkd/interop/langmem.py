"""LangMem and LangGraph stores: items of namespace, key and value, as JSON lines or a list.

LangMem keeps `{"kind": <schema>, "content": <its fields>}` as the value; a bare LangGraph item may hold
anything. The namespace `("memories", user)`, which LangMem's documentation uses, names a user.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentkd.interop.candidate import (
    kept_of,
    lesson_fields,
    moment,
    text_of,
    texts_of,
    wants_mapping,
    with_lesson_fields,
)
from agentkd.interop.imported import Imported
from agentkd.interop.source import RecordError, gather, json_records, read_text
from agentkd.schema import Memory, Scope, canonical_json

__all__ = ["dump_langmem", "read_langmem"]

FORMAT = "langmem"
_ROOT = "memories"
_PLACES = (("content",), ("content", "content"), ("text",), ("memory",), ("data",))
_KIND_WORDS = (
    ("prefer", "preference"),
    ("episode", "insight"),
    ("proced", "strategy"),
)


def read_langmem(path: str | Path) -> Imported:
    """Read exported store items; DataError for a file that holds none."""
    file = Path(path)
    return gather(file, FORMAT, json_records(file, read_text(file), ("items",)), _memory)


def dump_langmem(memories: Iterable[Memory]) -> str:
    """Return memories as JSON lines of store items; those of other origin get LangMem's own schema."""
    return "".join(json.dumps(_record(memory), ensure_ascii=False) + "\n" for memory in memories)


def _memory(value: Any) -> Memory:
    record = wants_mapping(value)
    if "namespace" not in record or "value" not in record:
        raise RecordError("has no `namespace` and `value`, which every store item has")
    held = wants_mapping(record["value"])
    content, at = _content(held)
    emptied = json.loads(json.dumps(held))
    if at:
        _below(emptied, at[:-1])[at[-1]] = ""
    fields = held.get("content")
    return with_lesson_fields(
        FORMAT,
        fields if isinstance(fields, Mapping) else held,
        kind=_kind(held.get("kind")),
        content=content,
        scope=Scope(user=_user(record["namespace"])),
        created_at=moment(record.get("created_at")),
        rest={**record, "key": text_of(record, "key"), "value": emptied, "at": list(at)},
    )


def _content(held: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the text of a value and its place; all of the value as JSON where no place holds a text."""
    for place in _PLACES:
        found: Any = held
        for name in place:
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, str) and found.strip():
            return found, place
    if not held:
        raise RecordError("has an empty value")
    return canonical_json(held.get("content") or held), ()


def _kind(named: Any) -> str:
    word = named.casefold() if isinstance(named, str) else ""
    return next((kind for part, kind in _KIND_WORDS if part in word), "fact")


def _user(namespace: Any) -> str:
    parts = namespace.split(".") if isinstance(namespace, str) else texts_of(namespace)
    return parts[1] if len(parts) == 2 and parts[0] == _ROOT else ""


def _record(memory: Memory) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(kept_of(memory, FORMAT)))
    at = texts_of(record.pop("at", None))
    held = record.get("value")
    for name in at[:-1]:
        held = held.get(name) if isinstance(held, dict) else None
    if not isinstance(held, dict):
        return _fresh(memory)
    if at:
        held[at[-1]] = memory.content
    return record


def _fresh(memory: Memory) -> dict[str, Any]:
    stamp = memory.created_at.isoformat()
    content = {"content": memory.content, **lesson_fields(memory)}
    return {
        "namespace": [_ROOT, memory.scope.user] if memory.scope.user else [_ROOT],
        "key": memory.id,
        "value": {"kind": "Memory", "content": content},
        "created_at": stamp,
        "updated_at": stamp,
    }


def _below(value: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        value = value[name]
    return value
