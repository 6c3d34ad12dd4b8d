"""The suite `bfcl-live`: tasks by split, a world that takes one call, and the official answers as grader."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentkd.errors import ConfigError, NotFoundError
from agentkd.plugins import nearest
from agentkd.protocols import Baseline, Kit
from agentkd.schema import Outcome, Task, ToolCall, ToolResult, ToolSpec, Trajectory
from agentkd_bfcl.answer import accepted_call
from agentkd_bfcl.baseline import MajorityBaseline, NeighbourBaseline, ToolDescriptionBaseline
from agentkd_bfcl.data import read_rows
from agentkd_bfcl.grader import grade_calls
from agentkd_bfcl.selection import Item, select
from agentkd_bfcl.settings import BfclLiveSettings

__all__ = ["BfclLive", "SingleCall"]


class SingleCall:
    """A world that takes one call and ends; nothing is executed."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.tools: Sequence[ToolSpec] = tuple(tools)
        self._is_over = False

    def call(self, call: ToolCall) -> ToolResult:
        """Take the call and end the task; the agent is not told whether it was right."""
        if self._is_over:
            return ToolResult(error="the task took its one call already", ends_task=True)
        self._is_over = True
        return ToolResult(content="The call was taken.", ends_task=True)

    def close(self) -> None:
        """Nothing is held."""


class BfclLive:
    """Requests of real users that ask for one call out of the 26 tools with the most requests.

    `train` (with its parts `train-inner` and `dev`) and `holdout` offer the same tools;
    `holdout-unseen` asks for tools that never occur in training and offers those of its own row.
    """

    name = "bfcl-live"

    def __init__(self, folder: Path, settings: BfclLiveSettings | None = None) -> None:
        selection = select(read_rows(folder), settings or BfclLiveSettings())
        self._splits = selection.splits
        self._items = {item.row.id: item for items in self._splits.values() for item in items}
        self._taught = frozenset(item.row.id for item in self._splits["train"])
        self.tools = selection.tools
        self.dropped = selection.dropped

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split; `dev` and `train-inner` are parts of `train`."""
        return {name: len(items) for name, items in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split in the benchmark's order, or the first `n` of a seeded shuffle."""
        items = list(self._split(split))
        if n is not None and n < len(items):
            random.Random(seed).shuffle(items)
            items = items[:n]
        return tuple(self._task(item, split) for item in items)

    def environment(self, task: Task) -> SingleCall:
        """Make the world of a task: its tools, for one call."""
        return SingleCall(self._item(task.id).row.tools)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge the calls; the accepted one is told for tasks of `train` alone."""
        item = self._item(trajectory.task.id)
        row = item.row
        calls = [call for step in trajectory.steps for call in step.accepted_calls or step.reply.tool_calls]
        outcome = grade_calls(calls, tool=item.tool, offered=row.tools, answer=row.answer)
        if row.id not in self._taught:
            return outcome
        expected = accepted_call(item.tool, row.answer)
        return outcome.model_copy(update={"expected": (expected,) if expected else ()})

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return nearest neighbour copied, tool description match and majority, learnt from `train`."""
        examples = [(self._item(task.id).row.prompt, self._expected(task)) for task in train]
        if not examples:
            return ()
        embedder = kit.embedder()
        return (
            NeighbourBaseline(examples, embedder),
            ToolDescriptionBaseline(self._tools_of, embedder),
            MajorityBaseline([call for _, call in examples]),
        )

    def _split(self, split: str) -> Sequence[Item]:
        if split not in self._splits:
            raise ConfigError(f"`{self.name}` has no split `{split}`", hint=nearest(split, self._splits))
        return self._splits[split]

    def _task(self, item: Item, split: str) -> Task:
        row = item.row
        return Task(
            id=row.id, suite=self.name, split=split, prompt=row.prompt, system=row.system, group=item.group
        )

    def _item(self, task_id: str) -> Item:
        try:
            return self._items[task_id]
        except KeyError:
            raise NotFoundError(f"`{self.name}` has no task `{task_id}`") from None

    def _tools_of(self, task: Task) -> Sequence[ToolSpec]:
        return self._item(task.id).row.tools

    def _expected(self, task: Task) -> ToolCall:
        if task.id not in self._taught:
            raise ConfigError(f"task `{task.id}` is held out: a baseline must not learn from it")
        item = self._item(task.id)
        call = accepted_call(item.tool, item.row.answer)
        if call is None:  # `select` keeps no such row
            raise NotFoundError(f"task `{task.id}` has no accepted call")
        return call
