"""Calls as the assistant says them in a row: one message each, in the order of the tool's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentkd.hf import call_text
from agentkd.schema import Message, ToolCall, ToolSpec, Trajectory

__all__ = ["Specs", "in_schema_order", "said_earlier"]


class Specs:
    """The tools of one trajectory, and its calls as messages, each made once: target here, history there."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.by_name = {spec.name: spec for spec in tools}
        self._made: dict[tuple[int, str], tuple[ToolCall, Message]] = {}

    def message(self, call: ToolCall, origin: Literal["model", "person"]) -> Message:
        """Return a call as the assistant says it."""
        key = id(call), origin
        if key not in self._made:  # the call is kept too, so that its id stays its own
            ordered = in_schema_order(call, self.by_name.get(call.name))
            self._made[key] = (
                call,
                Message(role="assistant", content=call_text(ordered), tool_calls=(ordered,), origin=origin),
            )
        return self._made[key][1]


def said_earlier(trajectory: Trajectory, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
    """Return what was said in the conversation before the request, as a row's history tells it."""
    specs = Specs(tools)
    return tuple(
        specs.message(message.tool_calls[0], "model") if message.tool_calls else message
        for message in trajectory.earlier
    )


def in_schema_order(call: ToolCall, spec: ToolSpec | None) -> ToolCall:
    """Return a call as the decoding grammar writes it: schema order of keys at every depth, no id."""
    schema = spec.parameters if spec is not None else {}
    return ToolCall(name=call.name, arguments=_ordered(call.arguments, schema))


def _ordered(value: Any, schema: Any) -> Any:
    schema = schema if isinstance(schema, Mapping) else {}
    if isinstance(value, list):
        return [_ordered(item, schema.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    keys = [key for key in properties if key in value] + [key for key in value if key not in properties]
    return {key: _ordered(value[key], properties.get(key)) for key in keys}
