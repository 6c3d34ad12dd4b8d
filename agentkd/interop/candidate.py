"""Make a candidate memory of what a foreign store holds, and read foreign fields without trusting them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from agentkd.interop.source import RecordError
from agentkd.schema import Memory, MemoryKeys, Scope, Utility, memory_id, now
from agentkd.schema.memory import MemoryKind

__all__ = [
    "IMPORT",
    "KINDS",
    "candidate",
    "clipped",
    "count",
    "counts_of",
    "kept_of",
    "lesson_fields",
    "moment",
    "text_of",
    "texts_of",
    "wants_mapping",
    "with_lesson_fields",
]

KINDS: tuple[str, ...] = get_args(MemoryKind)
"""Kinds that a foreign record may name; any other name falls back to the format's own kind."""

IMPORT = "import"
"""Key in a memory's extras of what was said of it where it was imported from."""


def candidate(
    format_: str,
    *,
    kind: str,
    content: str,
    when_to_use: str = "",
    query: str = "",
    task: str = "",
    tools: str = "",
    scope: Scope | None = None,
    privacy: str = "",
    utility: Utility | None = None,
    confidence: float = 0.5,
    created_at: datetime | None = None,
    rest: Mapping[str, Any] | None = None,
) -> Memory:
    """Return a candidate; a store without situations is searched by what it says, so that is the situation.

    What belongs to one user is private, whatever `privacy` says. `rest` holds the fields that only the
    foreign format knows, kept for the way back. Raises RecordError for an entry without text.
    """
    if not content.strip():
        raise RecordError("has no text")
    when = when_to_use if when_to_use.strip() else content
    scope = scope or Scope()
    return Memory(
        id=memory_id(kind, when, content, scope),
        kind=kind,  # type: ignore[arg-type]  # from KINDS
        when_to_use=when,
        content=content,
        keys=MemoryKeys(situation=when, query=query, task=task, tools=tools),
        scope=scope,
        utility=utility or Utility(),
        confidence=confidence,
        origin=f"import:{format_}",
        privacy="private" if scope.user or privacy == "private" else "shared",
        created_at=created_at or now(),
        extras={format_: dict(rest)} if rest else {},
    )


def kept_of(memory: Memory, format_: str) -> dict[str, Any]:
    """Return what a memory keeps for the way back to a format; empty where it keeps no object there."""
    kept = memory.extras.get(format_)
    return dict(kept) if isinstance(kept, Mapping) else {}


def counts_of(memory: Memory) -> Utility:
    """Return how often a memory was recalled and won, here and where it was imported from."""
    own, kept = memory.utility, kept_of(memory, IMPORT)
    recalls = count(kept.get("recalls"))
    return Utility(
        recalls=own.recalls + recalls,
        wins=own.wins + min(count(kept.get("wins")), recalls),
        held_out=own.held_out,
        held_out_wins=own.held_out_wins,
    )


def lesson_fields(memory: Memory, *, but: Collection[str] = ()) -> dict[str, Any]:
    """Return what a free-form format says of a memory beside its text, without empty fields.

    Readers of such formats take these fields back through `with_lesson_fields`.
    """
    keys, used = memory.keys, memory.utility
    fields: dict[str, Any] = {
        "kind": memory.kind,
        "when_to_use": memory.when_to_use if memory.when_to_use != memory.content else "",
        "query": keys.query,
        "task": keys.task,
        "tools": keys.tools,
        "recalls": used.recalls,
        "wins": used.wins,
    }
    if memory.confidence != 0.5:
        fields["confidence"] = memory.confidence
    return {n: value for n, value in fields.items() if (value or n == "confidence") and n not in but}


def with_lesson_fields(format_: str, fields: Mapping[str, Any], *, kind: str, **known: Any) -> Memory:
    """Return a candidate of a free-form record whose `fields` may hold what `lesson_fields` gives."""
    named, recalls = fields.get("kind"), count(fields.get("recalls"))
    stated = clipped(fields.get("confidence"))
    return candidate(
        format_,
        kind=str(named) if named in KINDS else kind,
        when_to_use=_said(fields.get("when_to_use")),
        query=_said(fields.get("query")),
        task=_said(fields.get("task")),
        tools=_said(fields.get("tools")),
        utility=Utility(recalls=recalls, wins=min(count(fields.get("wins")), recalls)),
        confidence=0.5 if stated is None else stated,
        **known,
    )


def wants_mapping(value: Any) -> Mapping[str, Any]:
    """Return the value where it is a JSON object; RecordError otherwise."""
    if not isinstance(value, Mapping):
        raise RecordError(f"is {_name(value)} where an object was expected")
    return value


def text_of(record: Mapping[str, Any], *names: str) -> str:
    """Return the first of these fields that is not empty; RecordError where it is no text."""
    for name in names:
        value = record.get(name)
        if value in (None, ""):
            continue
        if not isinstance(value, str):
            raise RecordError(f"`{name}` is {_name(value)} where a text was expected")
        return value
    return ""


def texts_of(value: Any) -> tuple[str, ...]:
    """Return the texts of a list, or the one text; anything else gives none."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(item for item in value if isinstance(item, str) and item) if isinstance(value, list) else ()


def count(value: Any) -> int:
    """Return a count that is 0 or more; anything that is no whole number counts 0."""
    is_whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    return min(max(int(value), 0), 1 << 31) if is_whole else 0


def clipped(value: Any) -> float | None:
    """Return a number brought into [0, 1]; None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return min(max(float(value), 0.0), 1.0) if is_number else None


def moment(value: Any) -> datetime | None:
    """Return a point in time from ISO text (UTC where it names no zone); None where it is none."""
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _said(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _name(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "nothing"}
    return names.get(type(value), "a number")
