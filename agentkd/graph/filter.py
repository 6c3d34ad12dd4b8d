"""Filters of a store search: plain equality and `$eq $ne $gt $gte $lt $lte`, decided in Python.

No part of a filter ever reaches SQL. The meaning is that of LangGraph's `InMemoryStore`, and where that one
fails (an order asked of a missing field or of a list) the item does not match.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from agentkd.errors import DataError

__all__ = ["check_filter", "matches"]

Filter = Mapping[str, Any]

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_ORDERS)


def check_filter(filter_: Filter | None) -> None:
    """Raise DataError for a filter that names an unknown operator or mixes operators with fields."""
    for key, wanted in (filter_ or {}).items():
        if not isinstance(key, str):
            raise DataError(f"a filter names fields by strings, not by {type(key).__name__}")
        if key.startswith("$"):
            raise DataError(
                f"a filter has no operator `{key}` above its fields",
                hint=f"write it below a field; known: {', '.join(_OPERATORS)}",
            )
        _check_wanted(wanted)


def _check_wanted(wanted: Any) -> None:
    if isinstance(wanted, (list, tuple)):
        for item in wanted:
            _check_wanted(item)
    if not isinstance(wanted, Mapping):
        return
    named = [key for key in wanted if isinstance(key, str) and key.startswith("$")]
    unknown = [key for key in wanted if key not in _OPERATORS] if named else []
    if unknown:
        raise DataError(
            f"a filter does not know the operator `{unknown[0]}`", hint=f"known: {', '.join(_OPERATORS)}"
        )
    if not named:
        for deeper in wanted.values():
            _check_wanted(deeper)


def matches(value: Filter, filter_: Filter | None) -> bool:
    """Whether a stored value fits every field of a checked filter."""
    return all(_fits(value.get(key), wanted) for key, wanted in (filter_ or {}).items())


def _fits(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(isinstance(key, str) and key.startswith("$") for key in wanted):
            return all(_compare(found, name, bound) for name, bound in wanted.items())
        return isinstance(found, Mapping) and all(_fits(found.get(k), v) for k, v in wanted.items())
    if isinstance(wanted, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(wanted)
            and all(_fits(f, w) for f, w in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def _compare(found: Any, name: str, bound: Any) -> bool:
    if name == "$eq":
        return bool(found == bound)
    if name == "$ne":
        return bool(found != bound)
    numbers = _number(found), _number(bound)
    if numbers[0] is not None and numbers[1] is not None:
        return _ORDERS[name](*numbers)
    if isinstance(found, str) and isinstance(bound, str):
        return _ORDERS[name](found, bound)
    return False


def _number(value: Any) -> float | None:
    """Read a number, also one that is spelt in a string."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
