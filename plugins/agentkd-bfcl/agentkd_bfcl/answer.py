"""Accepted answers: fitted to the tool that is offered, and written out as one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from agentkd.schema import ToolCall, ToolSpec
from agentkd_bfcl.data import Answer

__all__ = ["accepted_call", "fit_answer", "is_valid"]

_MISSING = object()


def is_valid(arguments: Any, schema: Mapping[str, Any]) -> bool:
    """Say whether arguments (or one value) fit a JSON Schema."""
    validator: Any = jsonschema.Draft202012Validator(dict(schema))
    return bool(validator.is_valid(arguments))


def fit_answer(tool: ToolSpec, answer: Answer) -> Answer | None:
    """Fit an accepted answer to a tool's schema; None where no call of this tool could be accepted.

    Rows describe one tool name with slightly different schemas, so that some answers hold a value in
    another type or spelling (`2019` for `"2019"`, `"horror"` for `"Horror"`). Such a value is accepted
    in the schema's spelling as well. Arguments that the tool does not have are dropped where they may
    be left out.
    """
    properties = tool.parameters.get("properties", {})
    fitted: dict[str, tuple[Any, ...]] = {}
    for name, values in answer.items():
        if name in properties:
            respelled = (_respell(value, properties[name]) for value in values)
            extra = tuple(v for v in respelled if v is not _MISSING and not _holds(values, v))
            fitted[name] = (*values, *extra)
        elif "" not in values:
            return None
    for name in tool.parameters.get("required", ()):
        if name not in fitted:
            return None
    call = accepted_call(tool, fitted)
    return fitted if call is not None and is_valid(call.arguments, tool.parameters) else None


def accepted_call(tool: ToolSpec, answer: Answer) -> ToolCall | None:
    """Write out the accepted call: schema order, the first accepted value, nothing that may be left out.

    Returns None where some argument has no accepted value that fits the schema.
    """
    required = tool.parameters.get("required", ())
    arguments: dict[str, Any] = {}
    for name, schema in tool.parameters.get("properties", {}).items():
        values = answer.get(name)
        if values is None or ("" in values and name not in required):
            continue
        value = next((v for v in _written_out(values, schema) if is_valid(v, schema)), _MISSING)
        if value is _MISSING:
            return None
        arguments[name] = value
    return ToolCall(name=tool.name, arguments=arguments)


def _written_out(values: tuple[Any, ...], schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the accepted values as JSON, non-empty ones first."""
    for value in sorted(values, key=lambda v: isinstance(v, str) and v == ""):
        yield _plain(value, schema)


def _plain(value: Any, schema: Mapping[str, Any]) -> Any:
    # Accepted objects hold lists of accepted values: {"size": ["large"]}.
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        order = [*[key for key in inner if key in value], *[key for key in value if key not in inner]]
        chosen = {key: _first(value[key], inner.get(key, {})) for key in order}
        return {key: item for key, item in chosen.items() if item is not _MISSING}
    if isinstance(value, list):
        return [_plain(item, schema.get("items", {})) for item in value]
    return value


def _first(values: Any, schema: Mapping[str, Any]) -> Any:
    if not isinstance(values, list):
        return _plain(values, schema)
    if "" in values:
        return _MISSING
    written = [_plain(value, schema) for value in values]
    return next((value for value in written if is_valid(value, schema)), written[0] if written else _MISSING)


def _respell(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return the value in the schema's type or spelling, or `_MISSING` where there is none."""
    if value == "" or isinstance(value, (dict, list)) or is_valid(value, schema):
        return _MISSING
    text = str(value).strip().lower()
    for choice in schema.get("enum", ()):
        if str(choice).lower() == text:
            return choice
    if "enum" in schema:
        return _MISSING
    kind = schema.get("type")
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    if kind == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if kind == "integer" and isinstance(value, str) and text.lstrip("-").isdecimal():
        return int(text)
    return _MISSING


def _holds(values: tuple[Any, ...], value: Any) -> bool:
    return any(type(other) is type(value) and other == value for other in values)
