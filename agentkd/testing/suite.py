"""A suite in memory, with splits, an environment and a grader."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from agentkd.errors import NotFoundError
from agentkd.protocols import Baseline, Environment, Kit
from agentkd.schema import Outcome, Task, ToolCall, ToolResult, ToolSpec, Trajectory

__all__ = ["FakeSuite"]

Request = tuple[str, ToolCall | str]


class FakeSuite:
    """Requests with one accepted call (or answer) each; holdout answers never leave it.

    Example::

        suite = FakeSuite({
            "train": [("Book a table for 2", ToolCall(name="book", arguments={"people": 2}))],
            "holdout": [("Book a table for 5", ToolCall(name="book", arguments={"people": 5}))],
        }, tools=[ToolSpec(name="book")])
    """

    def __init__(
        self,
        requests: Mapping[str, Iterable[Request]],
        *,
        tools: Sequence[ToolSpec] = (),
        name: str = "fake",
        baselines: Sequence[Baseline] = (),
    ) -> None:
        self.name = name
        self._tools = tuple(tools)
        self._baselines = tuple(baselines)
        self._answers: dict[str, ToolCall | str] = {}
        self._tasks: dict[str, list[Task]] = {}
        for split, pairs in requests.items():
            made = self._tasks.setdefault(split, [])
            for number, (prompt, answer) in enumerate(pairs):
                task = Task(
                    id=f"{split}-{number}", suite=name, split=split, prompt=prompt, group=f"{split}-{number}"
                )
                made.append(task)
                self._answers[task.id] = answer

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {split: len(tasks) for split, tasks in self._tasks.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split in order, or the first `n` of a seeded shuffle."""
        if split not in self._tasks:
            raise NotFoundError(f"suite `{self.name}` has no split `{split}`", split=split)
        tasks = list(self._tasks[split])
        if n is not None:
            random.Random(seed).shuffle(tasks)
        return tasks[:n]

    def environment(self, task: Task) -> Environment:
        """Offer the tools; the first call ends the task."""
        return _OneCall(self._tools)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Compare the last accepted call, or the answer, with the accepted one."""
        wanted = self._answers[trajectory.task.id]
        calls = [call for step in trajectory.steps for call in step.accepted_calls]
        if isinstance(wanted, str):
            parts, success = {}, trajectory.answer.strip() == wanted
        else:
            said = calls[-1] if calls else None
            is_tool = said is not None and said.name == wanted.name
            success = is_tool and said is not None and said.arguments == wanted.arguments
            parts = {"tool_choice": float(is_tool)}
        teaches = not trajectory.task.is_held_out
        return Outcome(
            success=success,
            reward=float(success),
            parts=parts,
            feedback="" if success else "this is not what was asked for",
            expected=(wanted,) if teaches and isinstance(wanted, ToolCall) else (),
            grader=self.name,
        )

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return the baselines that were given."""
        return self._baselines


class _OneCall:
    """An environment that answers `done` and ends the task."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        self.tools = tools

    def call(self, call: ToolCall) -> ToolResult:
        if call.name not in {tool.name for tool in self.tools}:
            return ToolResult(error=f"no tool is called `{call.name}`", ends_task=True)
        return ToolResult(content="done", ends_task=True)

    def close(self) -> None:
        return None
