"""Arms, comparisons and the table."""

from __future__ import annotations

import pytest

from agentkd.config import EvaluateSettings
from agentkd.errors import DataError
from agentkd.evaluate import arm_result, baseline_result, compare, evaluation_table, make_evaluation
from agentkd.schema import (
    ArmResult,
    Failure,
    Outcome,
    Task,
    TaskResult,
    ToolCall,
    Trajectory,
    Usage,
)

TASKS = [Task(id=f"t{i}", split="holdout", prompt=f"request {i}") for i in range(4)]


def trajectory(task, success, *, attempt=0, failure=None, graded=True):
    outcome = Outcome(success=success, parts={"tool_choice": 1.0}) if graded else None
    return Trajectory(
        id=f"{task.id}-{attempt}",
        run_id="r",
        task=task,
        attempt=attempt,
        outcome=outcome,
        failure=failure,
        usage=Usage(prompt_tokens=100, completion_tokens=10, seconds=0.5),
    )


def arm(name, successes, model="m") -> ArmResult:
    tasks = [Task(id=f"t{i}", prompt="?") for i in range(len(successes))]
    return arm_result(
        name, model, False, tasks, [trajectory(t, s) for t, s in zip(tasks, successes, strict=True)]
    )


def test_an_arm_sums_up_its_trajectories_in_task_order():
    found = [trajectory(task, i % 2 == 0) for i, task in enumerate(TASKS)]
    result = arm_result("base", "smol", True, TASKS, reversed(found))
    assert [r.task_id for r in result.results] == ["t0", "t1", "t2", "t3"]
    assert result.success.value == 0.5
    assert result.parts["tool_choice"].value == 1.0
    assert (result.prompt_tokens, result.completion_tokens, result.seconds) == (100, 10, 0.5)
    assert result.uses_memory
    assert result.n == 4


def test_failed_and_ungraded_runs_count_as_not_done():
    found = [
        trajectory(TASKS[0], True),
        trajectory(TASKS[1], True, failure=Failure(kind="model", message="gone")),
        trajectory(TASKS[2], True, graded=False),
        trajectory(TASKS[3], False),
    ]
    result = arm_result("base", "m", False, TASKS, found)
    assert [r.success for r in result.results] == [True, False, False, False]
    assert result.parts["tool_choice"].value == 0.75


def test_of_several_attempts_the_first_counts():
    found = [trajectory(t, a == 0, attempt=a) for t in TASKS for a in (1, 0)]
    assert arm_result("base", "m", False, TASKS, found).success.value == 1.0


def test_a_task_without_trajectory_is_an_error_not_a_failure():
    with pytest.raises(DataError, match="2 of 4 tasks, such as `t2`"):
        arm_result("base", "m", False, TASKS, [trajectory(t, True) for t in TASKS[:2]])


def test_a_comparison_counts_pairs():
    pair = compare(arm("a", [1, 1, 1, 0, 0]), arm("b", [1, 0, 0, 1, 0]), bootstrap=500)
    assert (pair.n, pair.wins, pair.losses) == (5, 2, 1)
    assert pair.difference.value == pytest.approx(0.2)
    assert pair.difference.low < pair.difference.value < pair.difference.high
    assert pair.p_value == 1.0


def test_a_comparison_pairs_by_task_not_by_position():
    one = arm("a", [1, 0])
    two = arm("b", [1, 0])
    turned = two.model_copy(update={"results": tuple(reversed(two.results))})
    assert compare(one, turned, bootstrap=100).wins == 0
    stranger = two.model_copy(update={"results": (TaskResult(task_id="x", success=True),)})
    with pytest.raises(DataError, match="share no task"):
        compare(one, stranger)


class _AlwaysCalls:
    name = "always"

    def answer(self, task):
        return (ToolCall(name=task.prompt),)


class _Suite:
    def grade(self, trajectory):
        (call,) = trajectory.steps[0].accepted_calls
        return Outcome(success=call.name == "request 1", parts={"tool_choice": 1.0})


def test_a_baseline_is_graded_by_the_suite():
    result = baseline_result(_AlwaysCalls(), _Suite(), TASKS)
    assert [r.success for r in result.results] == [False, True, False, False]
    assert result.name == "always"
    assert result.model == ""
    assert result.prompt_tokens == 0


def evaluation(**changes):
    arms = [arm("base", [0, 0, 1, 0]), arm("student", [1, 1, 1, 0]), arm("majority", [0, 0, 0, 0], model="")]
    fields = {"suite": "s", "split": "holdout", "arms": arms, "checkpoint": "student@1"}
    return make_evaluation(**{**fields, **changes})


def test_the_candidate_is_compared_with_every_other_arm():
    made = evaluation(settings=EvaluateSettings(bootstrap=200))
    assert [(p.ours, p.other) for p in made.paired] == [("student", "base"), ("student", "majority")]
    assert made.n == 4
    assert evaluation(candidate="").paired == ()


def test_an_evaluation_is_named_by_what_was_measured():
    assert evaluation().id == evaluation().id
    assert evaluation(seed=1).id != evaluation().id
    assert evaluation(split="other").id != evaluation().id


def test_arms_on_different_tasks_or_with_one_name_are_refused():
    with pytest.raises(DataError, match="different tasks"):
        evaluation(arms=[arm("base", [1, 0]), arm("student", [1])])
    with pytest.raises(DataError, match="share a name"):
        evaluation(arms=[arm("base", [1]), arm("base", [1])])


def test_the_table_has_a_row_per_arm_and_the_figure_that_counts():
    table = evaluation_table(evaluation())
    assert table.columns == ("arm", "tool choice", "whole call right", "prompt tokens", "seconds")
    assert [row[0] for row in table.rows] == ["base", "student", "majority"]
    assert table.rows[1][1:] == ("1.000", "0.750 [0.301, 0.954]", "100", "0.50")
    assert table.rows[2][-2:] == ("", "")


def test_without_tool_choice_the_figure_is_called_done():
    plain = evaluation(arms=[arm("base", [1]).model_copy(update={"parts": {}})])
    assert evaluation_table(plain).columns[1] == "done"
