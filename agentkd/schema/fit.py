"""Whether a tool call fits the tools that are offered."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from agentkd.schema.message import ToolCall, ToolSpec

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["call_fault", "schema_error"]

_SAYS_MORE = {
    "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties",
    "unevaluatedProperties",
}  # fmt: skip
"""Words of a schema that may allow parameters which `properties` does not name."""


def call_fault(call: ToolCall, tools: Collection[ToolSpec], *, is_lenient: bool = False) -> str:
    """Return what is wrong with a call of one of these tools, in a clause; empty for nothing.

    Without any tool nothing is known of calls, and nothing is wrong with them. `is_lenient` takes a number
    or a truth value that is written as text, as forms send them and tools read them.
    """
    specs = {tool.name: tool for tool in tools}
    if specs and call.name not in specs:
        return f"no tool is called `{call.name}`"
    if not specs:
        return ""
    schema = specs[call.name].parameters
    fault = _schema_fault(_read(call.arguments, schema) if is_lenient else call.arguments, schema)
    return f"the call of `{call.name}` does not fit its schema: {fault}" if fault else ""


def schema_error(value: Any, schema: Mapping[str, Any]) -> ValidationError | None:
    """Return the first thing in a value that breaks a schema; fetches nothing that the schema refers to.

    A schema from elsewhere may be broken in any way: then nothing can be held against a value.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    try:
        validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
        return next(validator.iter_errors(value), None)
    except Exception:
        return None


def _schema_fault(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what is wrong with the arguments of a call; empty for nothing.

    A parameter that the schema does not name is a fault, unless the schema says that it takes more.
    """
    error = schema_error(arguments, schema)
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path)
        return f"{where + ': ' if where else ''}{error.message}"[:300]
    properties = schema.get("properties")
    is_open = schema.get("additionalProperties", False) is not False
    if is_open or not isinstance(properties, Mapping) or not _SAYS_MORE.isdisjoint(schema):
        return ""
    strangers = set(arguments) - set(properties)
    return f"it has no parameter `{min(strangers)}`" if strangers else ""


def _read(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with texts read as JSON where a parameter takes no text."""
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    return {name: _plain(value, known.get(name)) for name, value in arguments.items()}


def _plain(value: Any, schema: Any) -> Any:
    if not isinstance(value, str) or not isinstance(schema, Mapping) or schema_error(value, schema) is None:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
