"""Baselines without a model: what a report must beat before learning means anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from agentkd.protocols import Embedder
from agentkd.schema import Task, ToolCall, ToolSpec, canonical_json

__all__ = ["MajorityBaseline", "NeighbourBaseline", "ToolDescriptionBaseline"]


class NeighbourBaseline:
    """Copies the accepted call of the most similar training request."""

    name = "nearest neighbour copied"

    def __init__(self, examples: Sequence[tuple[str, ToolCall]], embedder: Embedder) -> None:
        self._calls = [call for _, call in examples]
        self._vectors = embedder.embed([prompt for prompt, _ in examples])
        self._embedder = embedder

    def answer(self, task: Task) -> tuple[ToolCall, ...]:
        """Return the neighbour's call, word for word."""
        similarity = self._vectors @ self._embedder.embed([task.prompt])[0]
        return (self._calls[int(similarity.argmax())],)


class ToolDescriptionBaseline:
    """Calls, without arguments, the tool whose name and description are most like the request."""

    name = "tool description match"

    def __init__(self, tools_of: Callable[[Task], Sequence[ToolSpec]], embedder: Embedder) -> None:
        self._tools_of = tools_of
        self._embedder = embedder

    def answer(self, task: Task) -> tuple[ToolCall, ...]:
        """Return the call; the embedder's cache keeps the descriptions."""
        tools = self._tools_of(task)
        described = [f"{tool.name}: {tool.description}" for tool in tools]
        vectors = self._embedder.embed([*described, task.prompt])
        return (ToolCall(name=tools[int((vectors[:-1] @ vectors[-1]).argmax())].name),)


class MajorityBaseline:
    """Calls the most frequent tool with its most frequent arguments, whatever the request."""

    name = "majority"

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        tool = Counter(call.name for call in calls).most_common(1)[0][0]
        of_tool = {canonical_json(call): call for call in calls if call.name == tool}
        frequent = Counter(canonical_json(call) for call in calls if call.name == tool)
        self._call = of_tool[frequent.most_common(1)[0][0]]

    def answer(self, task: Task) -> tuple[ToolCall, ...]:
        """Return the one call."""
        return (self._call,)
