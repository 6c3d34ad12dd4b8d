"""mem0: what `get_all` and `search` return, exported lists as JSON, JSON lines or CSV.

`user_id`, `agent_id` and `app_id` become the scope, and so does a `run_id` that stands alone: what one
session said is not for all. What has expired is left out. mem0 keeps one text per memory and no situation;
what else we know of a memory, its tenant among it, travels in `metadata`, under the names of our own fields.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agentkd.interop.candidate import (
    kept_of,
    lesson_fields,
    moment,
    text_of,
    wants_mapping,
    with_lesson_fields,
)
from agentkd.interop.imported import Imported
from agentkd.interop.ownership import CLAIM, claim_of, claimed
from agentkd.interop.source import (
    MAX_TEXT_CHARS,
    Record,
    RecordError,
    clean,
    gather,
    json_records,
    parse_json,
    read_text,
)
from agentkd.schema import Memory, Scope, now
from agentkd.schema.memory import EXPIRES

__all__ = ["TEXTS", "columns", "dump_mem0", "read_mem0"]

FORMAT = "mem0"
TEXTS = ("memory", "content", "text", "data")
"""Fields that hold the text of a memory, in the versions and exports of mem0."""
_LISTS = ("results", "memories")
_SCOPE = {"user_id": "user", "agent_id": "agent", "app_id": "app"}
_TAKEN = (*TEXTS, *_SCOPE, "hash")


def read_mem0(path: str | Path) -> Imported:
    """Read an export of mem0; DataError for a file that is none."""
    file = Path(path)
    text = read_text(file)
    is_lines = "\n{" in text and not set(columns(text)) & set(TEXTS)  # of which the first may be broken
    is_json = is_lines or text.lstrip()[:1] in ("{", "[")
    records = json_records(file, text, _LISTS) if is_json else _rows(text)
    return gather(file, FORMAT, records, _memory)


def dump_mem0(memories: Iterable[Memory]) -> str:
    """Return memories in the shape of mem0's `get_all`."""
    return (
        json.dumps({"results": [_record(memory) for memory in memories]}, ensure_ascii=False, indent=1) + "\n"
    )


def columns(text: str) -> list[str]:
    """Return the names that the heading of a CSV file gives; none where its first line is no CSV."""
    try:
        return next(csv.reader([text.partition("\n")[0]]), [])
    except csv.Error:
        return []


def _rows(text: str) -> Iterator[Record]:
    """Yield the rows of a CSV export; `metadata` and `categories` hold JSON.

    A row that cannot be read is one fault that names all of its lines; the next line begins a row again.
    """
    csv.field_size_limit(MAX_TEXT_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    lines = reader.reader
    try:
        width = len(reader.fieldnames or ())
    except csv.Error as error:
        yield Record("line 1", RecordError(f"is not CSV: {error}"))
        return
    while True:
        first = lines.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = lines.line_num
            place = f"line {first}" if first == last else f"lines {first} to {last}"
            yield Record(place, RecordError(f"is not CSV: {error}"))
            continue
        place = f"line {reader.line_num}"
        try:
            if None in row or None in row.values():
                raise RecordError(f"has not the {width} columns of the heading")
            yield Record(place, {name: _cell(name, clean(cell)) for name, cell in row.items() if cell})
        except RecordError as error:
            yield Record(place, error)


def _cell(name: str, cell: str) -> Any:
    return parse_json(cell) if name in ("metadata", "categories") and cell[:1] in ("{", "[") else cell


def _memory(value: Any) -> Memory:
    record = wants_mapping(value)
    text = text_of(record, *TEXTS)
    if not text:
        raise RecordError(f"has no text under {', '.join(f'`{name}`' for name in TEXTS)}")
    found = record.get("metadata")
    metadata = found if isinstance(found, Mapping) else {}
    until = _expiry(record)
    if until is not None and until <= now():
        raise RecordError(f"expired on {record['expiration_date']}")
    told = {ours: text_of(record, theirs) for theirs, ours in _SCOPE.items()}
    claim = claimed(metadata)
    if claim is None and not any(told.values()):
        told["user"] = text_of(record, "run_id")
    if claim is not None:
        told = {name: told.get(name) or value for name, value in claim.scope}
    memory = with_lesson_fields(
        FORMAT,
        metadata,
        kind="fact",
        content=text,
        scope=Scope(**told),
        privacy=claim.privacy if claim is not None else "",
        created_at=moment(record.get("created_at")),
        rest={name: item for name, item in record.items() if name not in _TAKEN} or {"id": ""},
    )
    if until is None:
        return memory
    return memory.model_copy(update={"extras": {**memory.extras, EXPIRES: until.isoformat()}})


def _expiry(record: Mapping[str, Any]) -> datetime | None:
    """Return the end of the day until which a memory holds (UTC); None for one that holds for ever."""
    day = moment(record.get("expiration_date"))
    return None if day is None else day + timedelta(days=1)


def _record(memory: Memory) -> dict[str, Any]:
    rest = kept_of(memory, FORMAT)
    has_metadata = "metadata" in rest
    metadata = rest.pop("metadata", None)
    if isinstance(metadata, Mapping):
        metadata = {name: value for name, value in metadata.items() if name != CLAIM}
    named = {theirs: getattr(memory.scope, ours) for theirs, ours in _SCOPE.items()}
    if named["user_id"] and named["user_id"] == rest.get("run_id"):
        named["user_id"] = ""  # the session is all that names its user
    fresh = {"created_at": memory.created_at.isoformat(), "updated_at": memory.created_at.isoformat()}
    own = lesson_fields(memory, but=("kind",) if FORMAT in memory.extras and memory.kind == "fact" else ())
    claim = claim_of(memory, memory.scope.model_copy(update={"tenant": ""}))
    own |= {CLAIM: claim} if claim else {}
    more = {**(metadata if isinstance(metadata, Mapping) else {}), **own}
    until = moment(memory.extras.get(EXPIRES))
    return {
        **({} if FORMAT in memory.extras else fresh),
        **({} if until is None else {"expiration_date": until.date().isoformat()}),
        **rest,
        "id": rest.get("id") or memory.id,
        "memory": memory.content,
        "hash": hashlib.md5(memory.content.encode(), usedforsecurity=False).hexdigest(),
        **({"metadata": more or metadata} if more or has_metadata else {}),
        **{name: value for name, value in named.items() if value},
    }
