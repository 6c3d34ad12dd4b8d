"""The suite `jsonl`: anybody's own tasks, one JSON object per line.

Keys of a line::

    id        name of the task, unique in the file; without it, a hash of the request
    prompt    the request (required)
    system    instructions that precede it
    split     such as `train` or `holdout`; without it, groups are dealt out by hash
    group     tasks of one group never straddle a split; without it, equal requests form a group
    tools     tools that a `calls` task offers: [{"name", "description", "parameters"}]
    extras    anything else that a plugin wants to see
    answer    accepted text, or a list of them; a failed training task is corrected with the first
    contains  text, or a list of texts, that must occur in the answer
    regex     pattern that must match somewhere in the answer
    calls     wanted calls in order: [{"name", "arguments"}]; needs `tools`

Exactly one of the last four says what is right. A file with one broken line is refused whole.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.evaluate.line import Line, read_lines
from agentkd.evaluate.scorer import CallsScorer, ContainsScorer, ExactScorer, RegexScorer
from agentkd.plugins import nearest
from agentkd.protocols import Baseline, Kit
from agentkd.schema import Outcome, Task, ToolCall, ToolResult, ToolSpec, Trajectory, Value

if TYPE_CHECKING:
    from agentkd.protocols import Scorer

__all__ = ["JsonlSettings", "JsonlSuite", "TakenCalls", "build_jsonl_suite"]

_SCORERS: dict[str, Scorer] = {
    scorer.name: scorer for scorer in (ExactScorer(), ContainsScorer(), RegexScorer(), CallsScorer())
}


class JsonlSettings(Value):
    """`[suite.jsonl]`: where the tasks are and how they are split."""

    path: str = ""
    """File with one task per line; relative to the folder that the command runs in."""
    holdout_share: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Share of the groups held out, among lines that name no split."""
    seed: int = 0
    """Seed of that split."""


class TakenCalls:
    """A world that takes the wanted number of calls and ends; nothing is executed."""

    def __init__(self, tools: Sequence[ToolSpec], n_calls: int) -> None:
        self.tools: Sequence[ToolSpec] = tuple(tools)
        self._n_left = n_calls

    def call(self, call: ToolCall) -> ToolResult:
        """Take a call; the last one ends the task."""
        if call.name not in {tool.name for tool in self.tools}:
            return ToolResult(error=f"there is no tool `{call.name}`", ends_task=True)
        self._n_left -= 1
        return ToolResult(content="The call was taken.", ends_task=self._n_left <= 0)

    def close(self) -> None:
        """Nothing is held."""


class JsonlSuite:
    """Tasks from a file, graded by what each line calls right."""

    name = "jsonl"

    def __init__(self, path: Path, settings: JsonlSettings | None = None) -> None:
        """Read the whole file; raises DataError naming path and line where one is broken."""
        settings = settings or JsonlSettings()
        lines = read_lines(path)
        splits = _deal(lines, settings, path)
        self._lines = {line.id: line for line in lines.values()}
        self._tasks = {id: _task(line, splits[line.group_or_request()]) for id, line in self._lines.items()}

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        names = [task.split for task in self._tasks.values()]
        return {name: names.count(name) for name in sorted(set(names))}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split in file order, or the first `n` of a seeded shuffle."""
        found = [task for task in self._tasks.values() if task.split == split]
        if not found:
            raise ConfigError(f"`{self.name}` has no split `{split}`", hint=nearest(split, self.splits()))
        if n is not None and n < len(found):
            random.Random(seed).shuffle(found)
            found = found[:n]
        return tuple(found)

    def environment(self, task: Task) -> TakenCalls:
        """Make the world of a task: a `calls` task takes its calls, any other offers no tools."""
        line = self._line(task.id)
        return TakenCalls(line.tools, len(line.calls))

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a trajectory; what is right is told only for tasks that are not held out."""
        line = self._line(trajectory.task.id)
        rule, wanted = line.rule()
        made = [call for step in trajectory.steps for call in step.accepted_calls]
        output = made if rule == "calls" else trajectory.answer
        value, parts, text = _SCORERS[rule].score(wanted, output, {"tools": line.tools})
        may_tell = not self._tasks[line.id].is_held_out
        if may_tell and value < 1.0 and rule in {"exact", "contains"}:
            text = f"{text} Accepted: {'; '.join(wanted)}"
        return Outcome(
            success=value >= 1.0,
            reward=value,
            parts=parts,
            feedback=text,
            expected=line.calls if may_tell else (),
            expected_answer=wanted[0].strip() if may_tell and rule == "exact" else "",
            grader=rule,
        )

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return nothing: a file of tasks says nothing about baselines."""
        return ()

    def _line(self, task_id: str) -> Line:
        try:
            return self._lines[task_id]
        except KeyError:
            raise NotFoundError(f"`{self.name}` has no task `{task_id}`") from None


def build_jsonl_suite(settings: JsonlSettings, kit: Kit) -> JsonlSuite:
    """Build the suite from its settings."""
    if not settings.path:
        raise ConfigError(
            "suite `jsonl` needs the path of a file", hint="set `path` in `[suite.jsonl]`", key="path"
        )
    return JsonlSuite(Path(settings.path).expanduser(), settings)


def _task(line: Line, split: str) -> Task:
    return Task(
        id=line.id,
        suite=JsonlSuite.name,
        split=split,
        prompt=line.prompt,
        system=line.system,
        tools=line.tools,
        group=line.group_or_request(),
        extras=line.extras,
    )


def _deal(lines: Mapping[int, Line], settings: JsonlSettings, path: Path) -> dict[str, str]:
    """Return the split of every group: the one that a line names, else by hash in the wanted share."""
    named: dict[str, str] = {}
    for number, line in lines.items():
        group = line.group_or_request()
        if line.split and named.setdefault(group, line.split) != line.split:
            raise DataError(
                f"line {number} of `{path}`: task `{line.id}` is in split `{line.split}`, another of its "
                f"group in `{named[group]}`",
                hint="a split never cuts through a group; equal requests without `group` form one",
                path=str(path),
                line=number,
            )
    free = {line.group_or_request() for line in lines.values()} - named.keys()
    # Ordered by hash, a file that grows keeps most of its split.
    order = sorted(free, key=lambda g: hashlib.sha256(f"{settings.seed}\0{g}".encode()).digest())
    n_held = round(settings.holdout_share * len(order))
    return {**named, **{group: "holdout" if i < n_held else "train" for i, group in enumerate(order)}}
