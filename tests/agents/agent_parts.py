"""Parts for the tests of agents: tools, worlds, memories and a recaller over a fixed list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from agentkd.agents import Agent
from agentkd.schema import Hit, Memory, Scope, ToolCall, ToolResult, memory_id
from agentkd.tools import ToolBox, tool

Build = Callable[..., Agent]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool(has_side_effects=True)
def refund(order: str, euros: int) -> str:
    """Give money back."""
    return f"refunded {euros} for {order}"


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


class OneCall(ToolBox):
    """A world that ends the task with the first call."""

    def call(self, call: ToolCall) -> ToolResult:
        return super().call(call).model_copy(update={"ends_task": True})


class Recalls:
    """A recaller over a fixed list; remembers what it was asked."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        self.memories = memories
        self.asked: list[dict[str, Any]] = []

    def recall(
        self, state: str, k: int | None = None, *, scope: Scope | None = None, checkpoint: str = "base",
        exclude: Iterable[str] = (),
    ) -> list[Hit]:  # fmt: skip
        known = set(exclude)
        self.asked.append({"state": state, "scope": scope, "checkpoint": checkpoint, "exclude": known})
        return [Hit(memory=m, score=0.5) for m in self.memories if m.id not in known][: k or 2]

    def render(self, hits: Sequence[Hit]) -> str:
        return "Lessons:\n" + "\n".join(f"- {hit.memory.content}" for hit in hits) if hits else ""


def memory(text: str) -> Memory:
    return Memory(
        id=memory_id("insight", "always", text, Scope()), kind="insight", when_to_use="always", content=text
    )
