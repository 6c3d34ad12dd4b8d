"""Does a suite keep its promise? Fixed order, splits without leaks, fresh environments, a silent holdout."""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.protocols import Kit, Suite
from agentkd.schema import (
    Failure,
    Outcome,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    canonical_json,
    is_held_out,
)
from agentkd.testing.checks.claim import claim

__all__ = ["check_suite"]


def check_suite(suite: Suite, kit: Kit | None = None, *, n: int = 20) -> None:
    """Check that `suite` keeps `protocols.Suite`; grades empty and broken runs on `n` tasks per split."""
    from agentkd.testing.kit import FakeKit

    claim(isinstance(suite.name, str) and suite.name, "`name` is empty")
    splits = dict(suite.splits())
    claim(splits, "`splits` is empty")
    tasks = {split: list(suite.tasks(split)) for split in splits}
    for split, count in splits.items():
        _check_split(suite, split, count, tasks[split])
    everything = [task.id for found in tasks.values() for task in found]
    claim(len(everything) == len(set(everything)), "a task id appears twice in the suite")
    _check_no_leak(tasks)
    for found in tasks.values():
        for task in found[:n]:
            _check_task(suite, task)
    train = [task for split, found in tasks.items() if not is_held_out(split) for task in found]
    _check_baselines(suite, train, [t for found in tasks.values() for t in found[:3]], kit or FakeKit())


def _check_split(suite: Suite, split: str, count: int, found: list[Task]) -> None:
    ids = [task.id for task in found]
    claim(len(found) == count, f"`splits` says {count} tasks in `{split}`, `tasks` returns {len(found)}")
    claim([t.id for t in suite.tasks(split)] == ids, f"the order of `{split}` changes from call to call")
    for task in found:
        claim(task.suite == suite.name, f"task `{task.id}` says it is of suite `{task.suite}`")
        claim(task.split == split, f"task `{task.id}` of `{split}` says it is of `{task.split}`")
    some = [t.id for t in suite.tasks(split, 3, seed=7)]
    claim(len(some) == min(3, count), f"asked for 3 tasks of `{split}`, got {len(some)}")
    claim(set(some) <= set(ids), f"a draw from `{split}` holds tasks that the split does not have")
    claim([t.id for t in suite.tasks(split, 3, seed=7)] == some, "equal seeds gave different draws")


def _check_no_leak(tasks: dict[str, list[Task]]) -> None:
    homes: dict[str, str] = {}
    for split, found in tasks.items():
        side = "held out" if is_held_out(split) else "training"
        for task in found:
            for mark in (f"group `{task.group}`" if task.group else "", f"request {task.prompt[:60]!r}"):
                claim(
                    not mark or homes.setdefault(mark, side) == side,
                    f"{mark} is both on the training and on the held-out side",
                )


def _check_task(suite: Suite, task: Task) -> None:
    first, second = suite.environment(task), suite.environment(task)
    try:
        claim(first is not second, f"`environment` of `{task.id}` must be made anew for every attempt")
        offered = [*task.tools, *first.tools]
        claim(all(isinstance(spec, ToolSpec) for spec in offered), "`tools` must hold ToolSpec values")
        result = first.call(ToolCall(name="no_such_tool_anywhere"))
        claim(isinstance(result, ToolResult), "`call` must return a ToolResult")
        claim(not result.ok, "a call of an unknown tool must answer with `error`")
    finally:
        first.close()
        second.close()
    empty = Trajectory(id="tra-empty", run_id="run-check", task=task, model="nobody")
    broken = empty.model_copy(update={"failure": Failure(kind="model", message="unreachable")})
    for trajectory in (empty, broken):
        outcome = suite.grade(trajectory)
        claim(isinstance(outcome, Outcome), "`grade` must return an Outcome")
        claim(not outcome.success, f"an empty run of `{task.id}` was graded as a success")
        claim(0.0 <= outcome.reward <= 1.0, f"reward {outcome.reward} is not in [0, 1]")
        claim(
            all(0.0 <= v <= 1.0 for v in outcome.parts.values()), f"parts {outcome.parts} are not in [0, 1]"
        )
        if task.is_held_out:
            gave_away = outcome.expected or outcome.expected_answer
            claim(not gave_away, f"the grader gave away the answer of held-out task `{task.id}`")
        for call in outcome.expected:
            claim(
                canonical_json(call.arguments) == "{}"
                or canonical_json(call.arguments) not in canonical_json(task.extras),
                f"task `{task.id}` carries its answer in `extras`",
            )


def _check_baselines(suite: Suite, train: Sequence[Task], asked: Sequence[Task], kit: Kit) -> None:
    for baseline in suite.baselines(train, kit):
        claim(baseline.name, "a baseline has no name")
        for task in asked:
            calls = baseline.answer(task)
            claim(
                all(isinstance(call, ToolCall) for call in calls),
                f"baseline `{baseline.name}` must answer with ToolCall values",
            )
