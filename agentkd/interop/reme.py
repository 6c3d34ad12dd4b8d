"""ReMe libraries: JSON lines of task, personal and tool memories, as its `dump` operation writes them.

Both ways are lossless for ReMe's fields: what has no place in a memory travels in `extras["reme"]`. Whose a
memory is, of which ReMe knows nothing, stands in its `metadata`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentkd.interop.candidate import (
    KINDS,
    candidate,
    clipped,
    count,
    kept_of,
    moment,
    text_of,
    texts_of,
    wants_mapping,
)
from agentkd.interop.imported import Imported
from agentkd.interop.ownership import CLAIM, claim_of, claimed
from agentkd.interop.source import RecordError, gather, json_records, read_text
from agentkd.schema import Memory, Scope, Utility

__all__ = ["dump_reme", "read_reme"]

FORMAT = "reme"
_BY_CATEGORY = {"success": "insight", "failure": "pitfall", "comparative": "contrast"}
_BY_TYPE = {"tool": "tool-note", "personal": "preference"}
_CATEGORIES = {kind: category for category, kind in _BY_CATEGORY.items()}
_TYPES = {kind: type_ for type_, kind in _BY_TYPE.items()}
_TEXTS = (("when_to_use",), ("content",), ("metadata", "when_to_use"), ("metadata", "task_query"),
          ("metadata", "extra_info", "generalized_query"))  # fmt: skip


def read_reme(path: str | Path) -> Imported:
    """Read a ReMe library; DataError for a file that is none.

    `when_to_use`, `generalized_query` and `task_query` become the keys, the category the kind, `freq`
    and `utility` the recalls and wins, `confidence` (or a score above 0) the confidence.
    """
    file = Path(path)
    imported = gather(file, FORMAT, json_records(file, read_text(file)), _memory)
    has_counts = any("freq" in _below(memory.extras[FORMAT], "metadata") for memory in imported.memories)
    return imported.model_copy(update={"counts_use": has_counts})


def dump_reme(memories: Iterable[Memory]) -> str:
    """Return memories as the lines of a ReMe library."""
    return "".join(json.dumps(_record(memory), ensure_ascii=False) + "\n" for memory in memories)


def _memory(value: Any) -> Memory:
    record = wants_mapping(value)
    if "memory_type" not in record:
        raise RecordError("has no `memory_type`, which every ReMe memory has")
    metadata = _below(record, "metadata")
    more = _below(metadata, "extra_info")
    recalls = count(metadata.get("freq"))
    claim = claimed(metadata)
    return candidate(
        FORMAT,
        kind=_kind(record, metadata),
        content=text_of(record, "content"),
        when_to_use=text_of(record, "when_to_use"),
        query=text_of(more, "generalized_query"),
        task=text_of(metadata, "task_query"),
        tools=", ".join(texts_of(more.get("tools_used"))),
        scope=claim.scope if claim is not None else Scope(user=_person(record)),
        privacy=claim.privacy if claim is not None else "",
        utility=Utility(recalls=recalls, wins=min(count(metadata.get("utility")), recalls)),
        confidence=_confidence(record, more),
        created_at=moment(record.get("time_created")),
        rest=_rest(record),
    )


def _kind(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    named = metadata.get("kind")
    if named in KINDS:
        return str(named)
    by_type = _BY_TYPE.get(str(record["memory_type"]).lower())
    return by_type or _BY_CATEGORY.get(str(metadata.get("category")), "insight")


def _person(record: Mapping[str, Any]) -> str:
    """Return whom a personal memory is about: it is recalled for that user alone."""
    is_personal = str(record.get("memory_type")).lower() == "personal"
    return text_of(record, "target") if is_personal else ""


def _confidence(record: Mapping[str, Any], more: Mapping[str, Any]) -> float:
    stated, score = clipped(more.get("confidence")), clipped(record.get("score"))
    return stated if stated is not None else score or 0.5  # 0 is ReMe's "never scored"


def _below(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    return value if isinstance(value, Mapping) else {}


def _rest(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with the texts that the memory holds emptied: their places are kept."""
    rest: dict[str, Any] = json.loads(json.dumps(record))
    for path in _TEXTS:
        if _get(rest, path) is not None:
            _set(rest, path, "")
    return rest


def _record(memory: Memory) -> dict[str, Any]:
    kept = kept_of(memory, FORMAT)
    record: dict[str, Any] = json.loads(json.dumps(kept)) if "memory_type" in kept else _fresh(memory)
    when = memory.when_to_use if memory.when_to_use != memory.content else ""
    _set(record, ("content",), memory.content)
    _set(record, ("when_to_use",), when)
    if _get(record, ("metadata", "when_to_use")) is not None:
        _set(record, ("metadata", "when_to_use"), when)
    _put(record, ("metadata", "task_query"), memory.keys.task)
    _put(record, ("metadata", "extra_info", "generalized_query"), memory.keys.query)
    _put(record, ("metadata", "freq"), memory.utility.recalls)
    _put(record, ("metadata", "utility"), memory.utility.wins)
    if claim := claim_of(memory, Scope(user=_person(record))):
        _set(record, ("metadata", CLAIM), claim)
    elif isinstance(metadata := record.get("metadata"), dict):
        metadata.pop(CLAIM, None)
    return record


def _fresh(memory: Memory) -> dict[str, Any]:
    """Return what a memory that never was ReMe's has for the fields that only ReMe knows."""
    stamp = f"{memory.created_at:%Y-%m-%d %H:%M:%S}"
    more: dict[str, Any] = {"tags": [], "confidence": memory.confidence}
    if memory.keys.tools:
        more["tools_used"] = memory.keys.tools.split(", ")
    metadata = {
        "author": memory.origin,
        "kind": memory.kind,
        "category": _CATEGORIES.get(memory.kind, "success"),
        "extra_info": more,
        "freq": 0,
        "utility": 0,
    }
    return {
        "workspace_id": memory.scope.app,
        "memory_id": memory.id,
        "memory_type": _TYPES.get(memory.kind, "task"),
        "when_to_use": "",
        "content": "",
        "score": memory.confidence,
        "time_created": stamp,
        "time_modified": stamp,
        "author": memory.origin,
        "metadata": metadata,
    }


def _put(record: dict[str, Any], path: tuple[str, ...], value: str | int) -> None:
    """Set a field that the record has, or one that has something to say."""
    if value or _get(record, path) is not None:
        _set(record, path, value)


def _get(record: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _set(record: dict[str, Any], path: tuple[str, ...], value: str | int | dict[str, str]) -> None:
    for name in path[:-1]:
        below = record.get(name)
        record[name] = below if isinstance(below, dict) else {}
        record = record[name]
    record[path[-1]] = value
