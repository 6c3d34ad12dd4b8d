"""Read foreign text as JSON records: every fault names the file and the place, and text is made storable.

Foreign files are untrusted: sizes and nesting are limited, numbers must be finite, and half surrogates and
NUL characters, which no database keeps, become U+FFFD.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from agentkd.errors import DataError
from agentkd.interop.imported import Imported, Skipped
from agentkd.schema import Memory
from agentkd.schema.text import whole

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_TEXT_CHARS",
    "Record",
    "RecordError",
    "clean",
    "gather",
    "json_records",
    "parse_json",
    "read_text",
    "whole_or_lines",
]

MAX_FILE_BYTES = 1 << 30
MAX_TEXT_CHARS = 200_000
_MAX_DEPTH = 40
_DEEPEST = 400  # of what we wrote ourselves
_SEEN = 20  # lines that show whether a text is JSON lines


class RecordError(ValueError):
    """One entry cannot be read; the message says why."""


class Record(NamedTuple):
    """One entry of a foreign file."""

    place: str
    """Where it stands."""
    value: Any
    """Its JSON value, or the `RecordError` that reading it gave."""


def read_text(path: Path) -> str:
    """Return a file's text; DataError for one that is missing, too large, not UTF-8 or empty."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"`{path}` is larger than {MAX_FILE_BYTES >> 20} MiB", path=str(path))
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"`{path}`, line {line}: is not UTF-8 text", hint="save it as UTF-8", path=str(path), line=line
        ) from error
    except OSError as error:
        raise DataError(f"`{path}` cannot be read: {error.strerror}", path=str(path)) from error
    if not text.strip():
        raise DataError(f"`{path}` is empty: it holds no entry", hint="did its export fail?", path=str(path))
    return text


def parse_json(text: str, *, is_ours: bool = False) -> Any:
    """Return cleaned JSON; RecordError says what is wrong with it.

    What we write ourselves (`is_ours`) may hold texts and numbers of any size, as a ledger does.
    """
    try:
        if is_ours:
            return _storable(json.loads(text), _DEEPEST)
        return clean(json.loads(text, parse_constant=_refuse_constant))
    except RecordError:
        raise
    except RecursionError as error:
        raise RecordError("is nested too deeply") from error
    except ValueError as error:
        raise RecordError(f"is not JSON: {_reason(error)}") from error


def clean(value: Any) -> Any:
    """Return JSON data whose text can be stored; RecordError for what no record should hold."""
    return _storable(value, _MAX_DEPTH, _check)


def _check(value: Any) -> None:
    """Raise RecordError for a text or number of a size that no foreign record should hold."""
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
        raise RecordError(f"holds a text of {len(value)} characters, {MAX_TEXT_CHARS} are allowed")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError("holds a number that is not finite")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise RecordError("holds a number of more than 64 bits")


def _storable(value: Any, depth: int, check: Callable[[Any], None] = lambda value: None) -> Any:
    if depth < 0:
        raise RecordError("is nested too deeply")
    check(value)
    if isinstance(value, str):
        return whole(value).replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_storable(item, depth - 1, check) for item in value]
    if isinstance(value, Mapping):
        return {
            _storable(key, depth - 1, check): _storable(item, depth - 1, check) for key, item in value.items()
        }
    return value


def json_records(path: Path, text: str, under: tuple[str, ...] = ()) -> Iterator[Record]:
    """Yield the records of JSON lines, of a JSON list, or of the list below the key `under` of an object.

    A file that is one JSON object without such a key is one record. Raises DataError for a file that is
    neither JSON nor JSON lines.
    """
    value, lines = whole_or_lines(path, text)
    if lines:
        yield from (Record(f"line {number}", _parsed(line)) for number, line in lines)
        return
    key = next((k for k in under if isinstance(value, Mapping) and k in value), "")
    items = value[key] if key else value
    if isinstance(items, list):
        yield from (Record(f"{key}[{i}]", _cleaned(item)) for i, item in enumerate(items))
    else:
        yield Record(key or "line 1", _cleaned(items))


def whole_or_lines(path: Path, text: str) -> tuple[Any, list[tuple[int, str]]]:
    """Return the JSON value that a text is, or the numbered lines of one that is JSON lines.

    The value is not cleaned yet. Raises DataError for a text that is neither: it says where reading stopped.
    """
    try:
        return json.loads(text), []
    except (ValueError, RecursionError) as error:
        if _is_lines(text, getattr(error, "pos", 0)):
            return None, [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        raise _broken(path, text, error) from error


def _is_lines(text: str, stopped_at: int) -> bool:
    """Whether a text that is no JSON value is JSON lines, of which any may be broken, the first one too.

    A list that was cut off can hold a line that is an object by itself as well, but reading it as one value
    stops behind that line's start. One that is broken at an early line has commas behind the others.
    """
    objects = (line.rstrip() for line in text.split("\n") if line.lstrip()[:1] == "{")
    seen = list(islice(objects, _SEEN))
    if sum(line.endswith(",") and _is_value(line[:-1]) for line in seen) > sum(map(_is_value, seen)):
        return False
    start = 0
    for line in text.split("\n"):
        if line.lstrip()[:1] == "{" and _is_value(line):
            begin = start + line.index("{")
            return stopped_at <= begin or not text[:begin].strip()
        start += len(line) + 1
    return False


def _is_value(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _broken(path: Path, text: str, error: ValueError | RecursionError) -> DataError:
    if isinstance(error, RecursionError):
        return DataError(f"`{path}` is nested too deeply", path=str(path), line=1)
    if not isinstance(error, json.JSONDecodeError):
        return DataError(f"`{path}`, line 1: is not JSON: {error}", path=str(path), line=1)
    is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip())
    return DataError(
        f"`{path}`, line {error.lineno}, column {error.colno}: is not JSON: {_sentence(error)}",
        hint="was the file cut off?" if is_cut else "mend that place or export the file again",
        path=str(path),
        line=error.lineno,
    )


def _reason(error: ValueError) -> str:
    """Return what is wrong with a text and where; the line only where there are several."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    line = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""
    return f"{_sentence(error)} ({line}column {error.colno})"


def _sentence(error: json.JSONDecodeError) -> str:
    """Return the parser's message without the words that lead over to a place."""
    return error.msg.removesuffix(" at").removesuffix(" starting")


def gather(
    path: Path,
    format_: str,
    records: Iterator[Record],
    read: Callable[[Any], Memory],
    *,
    counts_use: bool = False,
) -> Imported:
    """Turn records into memories; what `read` refuses is skipped by name.

    Raises DataError where there are records and not one can be read: then the file is something else.
    """
    memories: list[Memory] = []
    places: list[str] = []
    skipped: list[Skipped] = []
    for place, value in records:
        try:
            if isinstance(value, RecordError):
                raise value
            memory = read(value)
        except RecordError as error:
            skipped.append(Skipped(place=place, reason=str(error)))
            continue
        memories.append(memory)
        places.append(place)
    if skipped and not memories:
        raise DataError(
            f"`{path}`, {skipped[0].place}: {skipped[0].reason}",
            hint=f"not one entry could be read as `{format_}`",
            path=str(path),
            line=skipped[0].place,
        )
    return Imported(
        path=str(path),
        format=format_,
        memories=tuple(memories),
        places=tuple(places),
        skipped=tuple(skipped),
        counts_use=counts_use,
    )


def _parsed(line: str) -> Any:
    try:
        return parse_json(line)
    except RecordError as error:
        return error


def _cleaned(value: Any) -> Any:
    try:
        return clean(value)
    except RecordError as error:
        return error


def _refuse_constant(name: str) -> Any:
    raise RecordError(f"is not JSON: it holds `{name}`")
