"""The suites: tasks by split, a database per attempt, and statements played again as grader."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.plugins import nearest
from agentkd.protocols import Baseline, Kit
from agentkd.schema import Outcome, Task, ToolCall, ToolResult, ToolSpec, Trajectory, content_id
from agentkd_llb.baseline import Expert, Neighbour, Noop
from agentkd_llb.data import Row, read_rows
from agentkd_llb.database import Database, render_rows
from agentkd_llb.grader import ANSWER, EXECUTE, Grader
from agentkd_llb.settings import LlbDbSettings

__all__ = ["LlbDb", "LlbDbSteps", "SqlWorld"]

LOOK_UP = ToolCall(name=EXECUTE, arguments={"sql": "SELECT sql FROM sqlite_master"})
"""How the hidden table is found."""

_EXECUTE = ToolSpec(
    name=EXECUTE,
    description="Run one SQLite statement.",
    parameters={
        "type": "object",
        "properties": {"sql": {"type": "string", "maxLength": 400}},
        "required": ["sql"],
        "additionalProperties": False,
    },
)
_EXECUTE_HIDDEN = _EXECUTE.model_copy(
    update={
        "description": "Run one SQLite statement and read its rows; "
        "`SELECT sql FROM sqlite_master` tells the table and its columns."
    }
)
_CELL = {"type": ["string", "number", "null"]}
_ANSWER = ToolSpec(
    name=ANSWER,
    description="End the task. Without `rows`, the rows of the last query are the answer.",
    parameters={
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"type": "array", "items": _CELL}}},
        "additionalProperties": False,
    },
)


class SqlWorld:
    """A database for one attempt and the tools to reach it."""

    def __init__(self, row: Row, tools: Sequence[ToolSpec]) -> None:
        self.tools: Sequence[ToolSpec] = tuple(tools)
        self._database = Database(row.table)
        self._is_one_step = len(tools) == 1

    def call(self, call: ToolCall) -> ToolResult:
        """Run a statement or take the answer; an error of the database is the result's error."""
        if call.name not in {tool.name for tool in self.tools}:
            return ToolResult(error=f"there is no tool `{call.name}`", ends_task=self._is_one_step)
        if call.name == ANSWER:
            return ToolResult(content="The answer was taken.", ends_task=True)
        answered = self._database.execute(str(call.arguments.get("sql", "")))
        if answered.error:
            return ToolResult(error=answered.error, ends_task=self._is_one_step)
        return ToolResult(content=render_rows(answered), ends_task=self._is_one_step)

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class LlbDb:
    """One step: the table's columns stand in the request, and one statement ends the task."""

    name = "llb-db"
    is_one_step = True
    tools: Sequence[ToolSpec] = (_EXECUTE,)

    def __init__(self, folder: Path, settings: LlbDbSettings | None = None) -> None:
        """Read the file; raises ConfigError where it is missing and DataError where it is broken."""
        settings = settings or LlbDbSettings()
        file = folder / settings.file
        rows = [row for row in read_rows(file) if row.key not in settings.exclude]
        self._rows = {f"db-{row.key}": row for row in sorted(rows, key=lambda row: int(row.key))}
        held = _held_groups(rows, settings.holdout_every)
        self._tasks = {id: self._make(id, row, _group(row) in held) for id, row in self._rows.items()}
        self._graders: dict[str, Grader] = {}
        if {"train", "holdout"} - set(self.splits()):
            raise DataError(f"`{file}` has too few tasks for a split of its own", path=str(file))

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        names = [task.split for task in self._tasks.values()]
        return {name: names.count(name) for name in sorted(set(names), reverse=True)}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split by key, or the first `n` of a seeded shuffle."""
        if split not in self.splits():
            raise ConfigError(f"`{self.name}` has no split `{split}`", hint=nearest(split, self.splits()))
        found = [task for task in self._tasks.values() if task.split == split]
        if n is not None and n < len(found):
            random.Random(seed).shuffle(found)
            found = found[:n]
        return tuple(found)

    def environment(self, task: Task) -> SqlWorld:
        """Make a fresh database with the task's table."""
        return SqlWorld(self._row(task.id), self.tools)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Play the accepted calls again and judge them; the accepted ones are told for `train` alone."""
        task_id = trajectory.task.id
        row = self._row(task_id)
        grader = self._graders.setdefault(task_id, Grader(row, is_one_step=self.is_one_step))
        may_tell = not self._tasks[task_id].is_held_out
        calls = [call for step in trajectory.steps for call in step.accepted_calls]
        outcome = grader.grade(calls, may_tell=may_tell)
        return outcome.model_copy(update={"expected": self._accepted(row)}) if may_tell else outcome

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return the expert as ceiling, noop as floor and, learnt from `train`, the neighbour's statement."""
        examples = [(task.prompt, self._taught(task)) for task in train]
        known: list[Baseline] = [Expert(lambda task: self._accepted(self._row(task.id))), Noop()]
        return (*known, Neighbour(examples, kit.embedder())) if examples else tuple(known)

    def _make(self, task_id: str, row: Row, is_held: bool) -> Task:
        return Task(
            id=task_id,
            suite=self.name,
            split="holdout" if is_held else "train",
            prompt=self._prompt(row),
            group=_group(row),
            extras={"skills": list(row.skills)},
        )

    def _prompt(self, row: Row) -> str:
        columns = ", ".join(name for name, _ in row.table.columns)
        return f"{row.instruction}\nTable {row.table.name}({columns})"

    def _accepted(self, row: Row) -> tuple[ToolCall, ...]:
        return (ToolCall(name=EXECUTE, arguments={"sql": row.sql}),)

    def _taught(self, task: Task) -> tuple[ToolCall, ...]:
        if self._tasks[self._known(task.id)].is_held_out:
            raise ConfigError(f"task `{task.id}` is held out: a baseline must not learn from it")
        return self._accepted(self._row(task.id))

    def _row(self, task_id: str) -> Row:
        return self._rows[self._known(task_id)]

    def _known(self, task_id: str) -> str:
        if task_id not in self._rows:
            raise NotFoundError(f"`{self.name}` has no task `{task_id}`")
        return task_id


class LlbDbSteps(LlbDb):
    """Many steps: the table has to be looked up, statements may fail, and `answer` ends the task."""

    name = "llb-db-steps"
    is_one_step = False
    tools: Sequence[ToolSpec] = (_EXECUTE_HIDDEN, _ANSWER)

    def _prompt(self, row: Row) -> str:
        return row.instruction

    def _accepted(self, row: Row) -> tuple[ToolCall, ...]:
        return (LOOK_UP, *super()._accepted(row), ToolCall(name=ANSWER))


def _group(row: Row) -> str:
    """Return what equal requests share: a hash of the instruction's words."""
    return content_id("grp", row.instruction.lower().split())


def _held_groups(rows: Sequence[Row], every: int) -> frozenset[str]:
    """Return the groups that are held out: by the lowest key of each, so that no group is cut."""
    first: dict[str, int] = {}
    for row in rows:
        first[_group(row)] = min(int(row.key), first.get(_group(row), int(row.key)))
    return frozenset(group for group, key in first.items() if key % every == 0)
