"""A box of tools: the environment of an agent that works outside a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentkd.errors import ConfigError
from agentkd.plugins import nearest
from agentkd.protocols import Tool
from agentkd.schema import ToolCall, ToolResult, ToolSpec
from agentkd.tools.function import FunctionTool

__all__ = ["ToolBox"]


class ToolBox:
    """Offers tools by name. Plain functions are made into tools; keeps no state of its own."""

    def __init__(self, tools: Iterable[Tool | Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for item in tools:
            made = item if isinstance(item, Tool) else FunctionTool(item)
            if made.spec.name in self._tools:
                raise ConfigError(
                    f"two tools are called `{made.spec.name}`", hint="pass `name=` to `@agentkd.tool`"
                )
            self._tools[made.spec.name] = made
        self.tools: Sequence[ToolSpec] = tuple(made.spec for made in self._tools.values())

    def call(self, call: ToolCall) -> ToolResult:
        """Run one call; an unknown tool or one that raises gives a result with `error`."""
        found = self._tools.get(call.name)
        if found is None:
            return ToolResult(error=f"no tool is called `{call.name}` ({nearest(call.name, self._tools)})")
        try:
            return found.call(call.arguments)
        except Exception as error:  # a tool of a plugin may break its promise
            return ToolResult(error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Release nothing: tools outlive a task."""
