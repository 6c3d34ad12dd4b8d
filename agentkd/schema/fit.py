"""Whether a tool call fits the tools that are offered."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agentkd.schema.message import ToolCall, ToolSpec

__all__ = ["call_fault"]

_SAYS_MORE = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties"})
"""Words of a schema that may allow parameters which `properties` does not name."""


def call_fault(call: ToolCall, tools: Collection[ToolSpec]) -> str:
    """Return what is wrong with a call of one of these tools, in a clause; empty for nothing.

    Without any tool nothing is known of calls, and nothing is wrong with them.
    """
    specs = {tool.name: tool for tool in tools}
    if specs and call.name not in specs:
        return f"no tool is called `{call.name}`"
    if specs and (fault := _schema_fault(call, specs[call.name])):
        return f"the call of `{call.name}` does not fit its schema: {fault}"
    return ""


def _schema_fault(call: ToolCall, tool: ToolSpec) -> str:
    """Return what is wrong with the arguments of a call; empty for nothing.

    A parameter that the schema does not name is a fault, unless the schema says that it takes more.
    """
    from jsonschema import Draft202012Validator

    try:
        error = next(Draft202012Validator(tool.parameters).iter_errors(call.arguments), None)
    except Exception:  # a schema from elsewhere may be broken in any way: nothing can be held against a call
        return ""
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path)
        return f"{where + ': ' if where else ''}{error.message}"[:300]
    properties = tool.parameters.get("properties")
    is_open = tool.parameters.get("additionalProperties", False) is not False
    if is_open or not isinstance(properties, Mapping) or not _SAYS_MORE.isdisjoint(tool.parameters):
        return ""
    strangers = set(call.arguments) - set(properties)
    return f"it has no parameter `{min(strangers)}`" if strangers else ""
