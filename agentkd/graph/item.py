"""Values of store items: what is kept of them, and the texts that a search compares."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.errors import DataError

__all__ = ["plain_value", "texts_of"]


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
