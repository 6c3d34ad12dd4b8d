"""The base of every value: frozen, strict about unknown fields, and addressable by content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["Value", "canonical_json", "content_id", "now", "sortable_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32: no i, l, o, u

Clock = Callable[[], datetime]


class Value(BaseModel):
    """A frozen value: no I/O, no behaviour beyond what its fields imply."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


def now() -> datetime:
    """Return the present moment in UTC; pass another callable wherever a clock is accepted."""
    return datetime.now(UTC)


def canonical_json(value: Any) -> str:
    """Render a value as JSON with sorted keys and no spaces, so that equal values hash equally."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return _CANONICAL.encode(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def content_id(prefix: str, *parts: Any) -> str:
    """Return `prefix-` and 20 hex digits of the sha256 over the parts' canonical JSON."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode(errors="surrogatepass")).hexdigest()
    return f"{prefix}-{digest[:20]}"


def sortable_id(prefix: str, *, clock: Clock = now) -> str:
    """Return `prefix-` and 18 base-32 characters that sort by time (ms) and never repeat."""
    number = (int(clock().timestamp() * 1000) << 40) | int.from_bytes(os.urandom(5), "big")
    digits = []
    for _ in range(18):
        number, rest = divmod(number, 32)
        digits.append(_ALPHABET[rest])
    return f"{prefix}-{''.join(reversed(digits))}"
