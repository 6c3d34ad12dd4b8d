"""Redact the state of a running agent on its way to a checkpointer's file, and go on with the real one.

What was cleaned is remembered by the bytes that were written, for as long as this process lives: a run that
waits for a person goes on as it was, and nobody who reads the file finds a secret.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["clean_serializer", "is_clean_serializer"]

_MOST = 1024  # cleaned states that are remembered; a run needs a handful
_KEPT = (
    ("id",), ("run_id",), ("trajectory_id",), ("thread_id",), ("scope",), ("trial", "scope"), ("task", "id"),
    ("task", "suite"),
)  # fmt: skip


def clean_serializer(inner: Any, redact: Callable[[str], str] | None = None) -> Any:
    """Return a copy of a serializer that writes redacted states; `redact` is the core's by default.

    It stays of its own class, because LangGraph narrows what its own serializers may build and no others; one
    that wraps another, such as an encrypting one, gets a clean inner one.
    """
    from agentkd.ledger.redact import redact_secrets

    if hasattr(inner, "serde"):
        wrapping = copy.copy(inner)
        wrapping.serde = clean_serializer(inner.serde, redact)
        return wrapping
    own = type(inner)
    kind: Any = type(f"Clean{own.__name__}", (_Clean, own), {})
    cleaned = kind.__new__(kind)
    vars(cleaned).update(vars(inner))
    cleaned._redact = redact or redact_secrets
    cleaned._real = OrderedDict()
    cleaned._lock = threading.Lock()
    return cleaned


def is_clean_serializer(serde: Any) -> bool:
    """Whether a serializer redacts already."""
    inner = getattr(serde, "serde", None)
    return isinstance(serde, _Clean) or (inner is not None and is_clean_serializer(inner))


class _Clean:
    """Goes before a serializer of LangGraph; a narrowed copy of one remembers what this one does."""

    _redact: Callable[[str], str]
    _real: OrderedDict[bytes, Any]
    _lock: threading.Lock

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Return the kind and the bytes of a redacted state."""
        clean = self._cleaned(obj)
        kind, data = super().dumps_typed(clean)  # type: ignore[misc]
        if clean is not obj:
            with self._lock:
                key = _key(kind, data)
                twin = self._real.get(key, obj)
                # Two states that differ in their secrets alone: none of them may be read as the other one.
                self._real[key] = obj if twin is obj or twin == obj else None
                while len(self._real) > _MOST:
                    self._real.popitem(last=False)
        return kind, data

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Return the state as it really was where this process wrote it, else as it was stored."""
        with self._lock:
            real = self._real.get(_key(*data))
        return super().loads_typed(data) if real is None else _apart(real)  # type: ignore[misc]

    def _cleaned(self, obj: Any) -> Any:
        """Return an object without secrets; the object itself where it holds none."""
        from agentkd.ledger.redact import redact_json

        if isinstance(obj, BaseModel):
            clean, has_changed = redact_json(obj.model_dump(mode="json"), self._redact, keep=_KEPT)
            return type(obj).model_validate(_untold(clean)) if has_changed else obj
        if isinstance(obj, str):
            clean = self._redact(obj)
            return obj if clean == obj else clean
        if isinstance(obj, int):
            clean, has_changed = redact_json(obj, self._redact)
            return clean if has_changed else obj
        if isinstance(obj, Mapping):
            parts: dict[Any, Any] = {}
            has_changed = False
            for key, value in obj.items():
                if isinstance(key, str) and _is_json(value):
                    part, is_new = redact_json({key: value}, self._redact)
                    parts |= part
                else:
                    parts[key] = self._cleaned(value)
                    is_new = parts[key] is not value
                has_changed = has_changed or is_new
            return parts if has_changed else obj
        if isinstance(obj, (list, tuple)):
            items = [self._cleaned(item) for item in obj]
            has_changed = any(new is not old for new, old in zip(items, obj, strict=True))
            return type(obj)(items) if has_changed and type(obj) in (list, tuple) else obj
        if dataclasses.is_dataclass(obj) and not isinstance(obj, type):  # such as LangGraph's Interrupt
            fields = {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj) if f.init}
            changed = {n: new for n, old in fields.items() if (new := self._cleaned(old)) is not old}
            return dataclasses.replace(obj, **changed) if changed else obj
        return obj


def _is_json(data: Any) -> bool:
    """Whether a value is plain JSON data: the names of its fields tell what they hold."""
    if isinstance(data, dict):
        return all(isinstance(key, str) and _is_json(value) for key, value in data.items())
    if type(data) in (list, tuple):
        return all(map(_is_json, data))
    return data is None or isinstance(data, (str, int, float))


def _key(kind: str, data: bytes) -> bytes:
    return hashlib.sha256(kind.encode() + b"\0" + data).digest()


def _apart(obj: Any) -> Any:
    """Return dictionaries that are the caller's own; the values in them are frozen."""
    return {key: _apart(value) for key, value in obj.items()} if isinstance(obj, dict) else obj


def _untold(data: Any) -> Any:
    """Drop exact tokens: their ids would spell a redacted secret out."""
    if isinstance(data, Mapping):
        return {key: None if key == "tokens" else _untold(value) for key, value in data.items()}
    return [_untold(item) for item in data] if isinstance(data, list) else data
