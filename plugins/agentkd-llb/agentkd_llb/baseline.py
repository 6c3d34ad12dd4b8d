"""Policies without a model: the ceiling, the floor, and a neighbour's statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentkd.protocols import Embedder
from agentkd.schema import Task, ToolCall

__all__ = ["Expert", "Neighbour", "Noop"]

Calls = tuple[ToolCall, ...]


class Expert:
    """Makes the benchmark's own calls: the ceiling. Its calls are graded and then forgotten."""

    name = "expert"

    def __init__(self, calls_of: Callable[[Task], Calls]) -> None:
        self._calls_of = calls_of

    def answer(self, task: Task) -> Calls:
        """Return the accepted calls."""
        return self._calls_of(task)


class Noop:
    """Does nothing: the floor."""

    name = "noop"

    def answer(self, task: Task) -> Calls:
        """Return no call."""
        return ()


class Neighbour:
    """Copies the statement of the training request that is most alike."""

    name = "nearest neighbour copied"

    def __init__(self, examples: Sequence[tuple[str, Calls]], embedder: Embedder) -> None:
        self._calls = [calls for _, calls in examples]
        self._vectors = embedder.embed([text for text, _ in examples])
        self._embedder = embedder

    def answer(self, task: Task) -> Calls:
        """Return the neighbour's calls, word for word."""
        similarity = self._vectors @ self._embedder.embed([task.prompt])[0]
        return self._calls[int(similarity.argmax())]
