"""Figures of the arms on the same tasks, and the paired comparisons between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from agentkd.config import EvaluateSettings
from agentkd.errors import DataError
from agentkd.evaluate.statistics import mcnemar_p, paired_bootstrap, wilson
from agentkd.protocols import Baseline, Suite
from agentkd.schema import (
    ArmResult,
    Evaluation,
    Interval,
    Message,
    Paired,
    Step,
    Task,
    TaskResult,
    Trajectory,
    content_id,
)

__all__ = ["arm_result", "baseline_result", "compare", "make_evaluation", "within", "without_tasks"]


def arm_result(
    name: str,
    model: str,
    uses_memory: bool,
    tasks: Sequence[Task],
    trajectories: Iterable[Trajectory],
    *,
    level: float = 0.95,
) -> ArmResult:
    """Sum up one arm; a run that failed or was not graded counts as not done.

    Args:
        name: Name of the arm.
        model: Model that acted.
        uses_memory: Whether memories were recalled.
        tasks: The tasks of the split, in the order of the report.
        trajectories: At least one per task; of several attempts the first counts.
        level: Confidence level of the intervals.

    Raises:
        DataError: a task has no trajectory.
    """
    first: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        held = first.get(trajectory.task.id)
        if held is None or trajectory.attempt < held.attempt:
            first[trajectory.task.id] = trajectory
    missing = [task.id for task in tasks if task.id not in first]
    if missing:
        raise DataError(
            f"arm `{name}` has no trajectory of {len(missing)} of {len(tasks)} tasks, such as `{missing[0]}`",
            hint="run the same command again: it goes on where it stopped",
            arm=name,
        )
    arm = _summarise(name, model, uses_memory, [_task_result(first[task.id]) for task in tasks], level)
    routes = Counter(
        first[task.id].extras["route"]["checkpoint"] for task in tasks if "route" in first[task.id].extras
    )
    return arm.model_copy(update={"routes": dict(routes.most_common())})


def baseline_result(
    baseline: Baseline, suite: Suite, tasks: Sequence[Task], *, level: float = 0.95
) -> ArmResult:
    """Let a baseline answer every task and grade it like any other trajectory."""
    results = []
    for task in tasks:
        calls = baseline.answer(task)
        reply = Message(role="assistant", tool_calls=calls, origin="system")
        trajectory = Trajectory(
            id=content_id("tra", "baseline", baseline.name, task.id),
            run_id="baseline",
            task=task,
            model=baseline.name,
            steps=(Step(index=0, reply=reply, accepted_calls=calls),),
        )
        outcome = suite.grade(trajectory)
        results.append(_task_result(trajectory.model_copy(update={"outcome": outcome})))
    return _summarise(baseline.name, "", False, results, level)


def _task_result(trajectory: Trajectory) -> TaskResult:
    outcome, usage = trajectory.outcome, trajectory.usage
    return TaskResult(
        task_id=trajectory.task.id,
        success=trajectory.success and trajectory.failure is None,
        parts=outcome.parts if outcome else {},
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        seconds=usage.seconds,
    )


def _summarise(
    name: str, model: str, uses_memory: bool, results: Sequence[TaskResult], level: float
) -> ArmResult:
    n = len(results)
    # A part that one task lacks (its run failed before grading) counts as 0 there.
    parts = dict.fromkeys(part for result in results for part in result.parts)
    return ArmResult(
        name=name,
        model=model,
        uses_memory=uses_memory,
        n=n,
        success=wilson(sum(r.success for r in results), n, level),
        parts={part: wilson(sum(r.parts.get(part, 0.0) for r in results), n, level) for part in parts},
        prompt_tokens=sum(r.prompt_tokens for r in results) / max(n, 1),
        completion_tokens=sum(r.completion_tokens for r in results) / max(n, 1),
        seconds=sum(r.seconds for r in results) / max(n, 1),
        results=tuple(results),
    )


def compare(
    ours: ArmResult, other: ArmResult, *, bootstrap: int = 10_000, level: float = 0.95, seed: int = 0
) -> Paired:
    """Compare two arms over the tasks that both did, pair by pair.

    Raises:
        DataError: the arms share no task.
    """
    theirs = {result.task_id: result.success for result in other.results}
    pairs = [(r.success, theirs[r.task_id]) for r in ours.results if r.task_id in theirs]
    if not pairs:
        raise DataError(f"arms `{ours.name}` and `{other.name}` share no task")
    wins = sum(a and not b for a, b in pairs)
    losses = sum(b and not a for a, b in pairs)
    difference: Interval = paired_bootstrap(
        [float(a) for a, _ in pairs],
        [float(b) for _, b in pairs],
        n_resamples=bootstrap,
        level=level,
        seed=seed,
    )
    return Paired(
        ours=ours.name,
        other=other.name,
        n=len(pairs),
        difference=difference,
        p_value=mcnemar_p(wins, losses),
        wins=wins,
        losses=losses,
    )


def make_evaluation(
    *,
    suite: str,
    split: str,
    arms: Sequence[ArmResult],
    candidate: str = "student",
    checkpoint: str = "",
    seed: int = 0,
    settings: EvaluateSettings | None = None,
) -> Evaluation:
    """Put the arms of one split together and compare the candidate with each of the others.

    Args:
        suite: Name of the suite.
        split: Name of the split.
        arms: Arms in the order of the table, over the same tasks.
        candidate: Name of the arm that is judged; empty compares nothing.
        checkpoint: Checkpoint behind the candidate.
        seed: Seed of sampling and bootstrap.
        settings: Resamples and level.

    Raises:
        DataError: two arms share a name, or differ in their tasks.
    """
    settings = settings or EvaluateSettings()
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise DataError(f"two arms share a name: {', '.join(names)}")
    tasks = [result.task_id for result in arms[0].results] if arms else []
    for arm in arms:
        if [result.task_id for result in arm.results] != tasks:
            raise DataError(f"arms `{arms[0].name}` and `{arm.name}` ran on different tasks")
    ours = next((arm for arm in arms if arm.name == candidate), None)
    paired = [
        compare(ours, arm, bootstrap=settings.bootstrap, level=settings.level, seed=seed)
        for arm in arms
        if ours is not None and arm.name != candidate
    ]
    outcomes = [[arm.name, arm.model, [r.success for r in arm.results]] for arm in arms]
    return Evaluation(
        id=content_id("eva", suite, split, checkpoint, tasks, outcomes, seed),
        suite=suite,
        split=split,
        n=len(tasks),
        seed=seed,
        checkpoint=checkpoint,
        arms=tuple(arms),
        paired=tuple(paired),
    )


def without_tasks(
    evaluation: Evaluation, left_out: Collection[str], settings: EvaluateSettings | None = None
) -> Evaluation:
    """Return the evaluation over the tasks that are not in `left_out`; itself where none is.

    A candidate is compared with every other arm, as in `make_evaluation`.
    """
    if not any(result.task_id in left_out for arm in evaluation.arms[:1] for result in arm.results):
        return evaluation
    kept = {r.task_id for arm in evaluation.arms for r in arm.results} - set(left_out)
    arms = [within(arm, kept) for arm in evaluation.arms]
    if not arms[0].results:
        return evaluation.model_copy(update={"n": 0, "arms": tuple(arms), "paired": ()})
    return make_evaluation(
        suite=evaluation.suite,
        split=evaluation.split,
        arms=arms,
        candidate=next((pair.ours for pair in evaluation.paired), ""),
        checkpoint=evaluation.checkpoint,
        seed=evaluation.seed,
        settings=settings,
    )


def within(arm: ArmResult, tasks: Collection[str]) -> ArmResult:
    """Return an arm's figures over those of its tasks that are in `tasks`."""
    kept = [result for result in arm.results if result.task_id in tasks]
    without = _summarise(arm.name, arm.model, arm.uses_memory, kept, arm.success.level)
    return without.model_copy(update={"run_id": arm.run_id})
