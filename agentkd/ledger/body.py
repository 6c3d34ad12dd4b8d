"""Bodies: values as JSON in the ledger, each with a checksum: SQLite notices no flipped bit in a text."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentkd.errors import StoreError
from agentkd.schema.text import mended

__all__ = ["dump", "load", "parse"]

_SUM = '{"#":"'
_AT, _END = len(_SUM), len(_SUM) + 8
_SURROGATE = "\\ud"  # how ASCII JSON begins the halves of a pair, and a lone one
_ENCODER = json.JSONEncoder(separators=(",", ":"))

V = TypeVar("V", bound=BaseModel)


def dump(data: BaseModel | Mapping[str, Any] | Sequence[Any]) -> str:
    """Render a value as ASCII JSON: NUL and infinities survive in every database.

    The first field of an object is the CRC-32 of the rest, because SQLite notices no flipped bit in a text.
    """
    plain = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
    text = _ENCODER.encode(plain)
    if not isinstance(plain, dict) or not plain:
        return text
    return f'{_SUM}{zlib.crc32(text.encode()):08x}",{text[1:]}'


def load(model: type[V], body: str | None, /, **overlay: Any) -> V:
    """Read a value back; `overlay` holds the columns that are newer than the body."""
    try:
        return model.model_validate({**parse(body), **overlay})
    except ValidationError as error:
        raise _unreadable(model.__name__, error) from error


def parse(body: str | None) -> dict[str, Any]:
    """Read a stored JSON object; raises StoreError for a damaged one."""
    body = body or ""
    try:
        told, mark, rest = body[_AT:_END], body[_END : _END + 2], "{" + body[_END + 2 :]
        is_kept = mark == '",' and told == f"{zlib.crc32(rest.encode()):08x}"
        if body.startswith(_SUM) != is_kept:  # a body of an older agentkd has no checksum at all
            raise ValueError("it differs from its checksum")
        data = json.loads(rest if is_kept else body)
    except ValueError as error:
        raise _unreadable("record", error) from error
    if not isinstance(data, dict):
        raise _unreadable("record", TypeError("not an object"))
    return mended(data) if _SURROGATE in body else data


def _unreadable(what: str, error: Exception) -> StoreError:
    return StoreError(
        f"a stored {what} cannot be read: {str(error).partition(chr(10))[0]}",
        hint="the ledger is damaged or was written by a newer agentkd: `agentkd doctor` checks it",
    )
