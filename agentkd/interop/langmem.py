"""LangMem and LangGraph stores: items of namespace, key and value, as JSON lines or a list.

LangMem keeps `{"kind": <schema>, "content": <its fields>}` as the value; a bare LangGraph item may hold
anything. What lies in a namespace belongs to that namespace alone, as in `agentkd.graph`: the same namespace
finds it. Items of our own store go out as they were put; other memories go out below `("memories", user)` and
say in their value whose they are.
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
from agentkd.interop.imported import Imported, Item
from agentkd.interop.item import index_of, life_of, stored_item
from agentkd.interop.ownership import CLAIM, claim_of, claimed
from agentkd.interop.source import RecordError, gather, json_records, read_text
from agentkd.memory.item import scope_of
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
    imported = gather(file, FORMAT, json_records(file, read_text(file), ("items",)), _memory)
    items = {i: item for i, memory in enumerate(imported.memories) if (item := _stored(memory)) is not None}
    return imported.model_copy(update={"items": items})


def dump_langmem(memories: Iterable[Memory]) -> str:
    """Return memories as JSON lines of store items; those of other origin get LangMem's own schema."""
    return "".join(json.dumps(_record(memory), ensure_ascii=False) + "\n" for memory in memories)


def _memory(value: Any) -> Memory:
    record = wants_mapping(value)
    if "namespace" not in record or "value" not in record:
        raise RecordError("has no `namespace` and `value`, which every store item has")
    held = wants_mapping(record["value"])
    content, at = _content(_unclaimed(held))
    emptied = json.loads(json.dumps(held))
    if at:
        _below(emptied, at[:-1])[at[-1]] = ""
    fields = _fields(held)
    claim, told = claimed(fields), scope_of(_labels(record["namespace"]), Scope())
    return with_lesson_fields(
        FORMAT,
        fields,
        kind=_kind(held.get("kind")),
        content=content,
        scope=told if claim is None else claim.scope,
        privacy="" if claim is None else claim.privacy,
        created_at=moment(record.get("created_at")),
        rest={**record, "key": text_of(record, "key"), "value": emptied, "at": list(at)},
    )


def _fields(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a value that holds LangMem's own fields, and ours."""
    fields = held.get("content")
    return fields if isinstance(fields, Mapping) else held


def _unclaimed(held: Mapping[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(held))
    value.pop(CLAIM, None)
    if isinstance(fields := value.get("content"), dict):
        fields.pop(CLAIM, None)
    return value


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


def _stored(memory: Memory) -> Item | None:
    """Return the item that was read; None for a memory of another origin that says whose it is."""
    record = _restored(memory)
    if record is None or CLAIM in _fields(record["value"]):
        return None
    return Item(
        namespace=_labels(record["namespace"]),
        key=str(record["key"]),
        value=record["value"],
        index=index_of(record.get("index")),
        at=moment(record.get("updated_at")) or memory.created_at,
        **life_of(record),
    )


def _labels(namespace: Any) -> tuple[str, ...]:
    """Return the labels of a namespace as text; RecordError for what could reach into another one."""
    found = namespace.split(".") if isinstance(namespace, str) else namespace
    if not isinstance(found, list) or not found:
        raise RecordError("has a `namespace` without labels")
    labels = tuple(label if isinstance(label, str) else canonical_json(label) for label in found)
    if not all(label and "." not in label and "\ufffd" not in label for label in labels):
        raise RecordError("has a `namespace` with a label that is empty or holds a dot")
    return labels


def _record(memory: Memory) -> dict[str, Any]:
    if (item := _item(memory)) is not None:
        return item
    record = _restored(memory)
    return _fresh(memory) if record is None else _owned(record, memory)


def _restored(memory: Memory) -> dict[str, Any] | None:
    """Return the record that a memory was read from with the words that it has now; None without one."""
    record: dict[str, Any] = json.loads(json.dumps(kept_of(memory, FORMAT)))
    at = texts_of(record.pop("at", None))
    value = held = record.get("value")
    for name in at[:-1]:
        held = held.get(name) if isinstance(held, dict) else None
    if not isinstance(value, dict) or not isinstance(held, dict):
        return None
    if at:
        held[at[-1]] = memory.content
    return record


def _told(namespace: Any) -> str:
    try:
        return scope_of(_labels(namespace), Scope()).user
    except RecordError:
        return ""


def _owned(record: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """Say in a record whose the memory is now; it leaves the namespace of another user."""
    user = _told(record.get("namespace"))
    record["value"] = _unclaimed(record["value"])
    if claim := claim_of(memory, Scope(user=user)):
        fields = record["value"].get("content")
        (fields if isinstance(fields, dict) else record["value"])[CLAIM] = claim
    if user != memory.scope.user and not memory.scope.user.endswith(f"..{user}"):
        record["namespace"] = _namespace(memory.scope)
    return record


def _item(memory: Memory) -> dict[str, Any] | None:
    """Return an item of `AgentkdStore` as it was put; None for another memory."""
    item = stored_item(memory)
    if item is None or not _says(item.value, memory.content):
        return None
    stamp = memory.created_at.isoformat()
    record = {"namespace": list(item.namespace), "key": item.key, "value": item.value}
    searched = {} if item.index is None else {"index": item.index}
    life = {name: memory.extras[name] for name in life_of(memory.extras)}
    return {**record, **searched, **life, "created_at": stamp, "updated_at": stamp}


def _says(value: Any, text: str) -> bool:
    """Whether a value or a part of it is this text, or reads so as JSON."""
    if not isinstance(value, dict):
        return bool(value == text)
    return canonical_json(value) == text or any(_says(part, text) for part in value.values())


def _fresh(memory: Memory) -> dict[str, Any]:
    stamp = memory.created_at.isoformat()
    content = {"content": memory.content, **lesson_fields(memory)}
    record = {
        "namespace": _namespace(memory.scope),
        "key": memory.id,
        "value": {"kind": "Memory", "content": content},
        "created_at": stamp,
        "updated_at": stamp,
    }
    return _owned(record, memory)


def _namespace(scope: Scope) -> list[str]:
    """Return LangMem's namespace of a user; a label holds no dot."""
    label = scope.user.replace("%", "%25").replace(".", "%2E")
    return [_ROOT, label] if label else [_ROOT]


def _below(value: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for name in path:
        value = value[name]
    return value
