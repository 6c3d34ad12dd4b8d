"""Assess a student: what it can, what it says instead, and whether it knows when it is right.

The report comes from graded runs on training-side tasks, because a teacher will read it: a held-out task in
it would be a leak by way of the teacher's pen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from agentkd.errors import DataError
from agentkd.evaluate.calibration import expected_calibration_error
from agentkd.evaluate.statistics import wilson
from agentkd.hf import call_text
from agentkd.schema import (
    Confidence,
    Mark,
    Mistake,
    MistakeKind,
    StudentReport,
    ToolCall,
    Trajectory,
    content_id,
)

__all__ = ["make_student_report"]

_HARDEST = 10
_LONGEST = 2000  # characters of a text that a report keeps


def make_student_report(
    trajectories: Sequence[Trajectory],
    *,
    suite: str,
    split: str,
    checkpoint: str = "base",
    level: float = 0.95,
) -> StudentReport:
    """Return the report of graded runs; those without an outcome are left out.

    Raises DataError for a run on a held-out task.
    """
    for trajectory in trajectories:
        if trajectory.task.is_held_out:
            raise DataError(
                f"task `{trajectory.task.id}` is held out: no teacher may learn how the student does on it",
                hint="assess on a training split (`[synthesize] split`)",
            )
    graded = sorted(
        (t for t in trajectories if t.outcome is not None), key=lambda t: (t.task.id, t.attempt, t.id)
    )
    marks = _marks(graded, level)
    weakness = {mark.name: 1.0 - mark.success.value for mark in marks if mark.kind == "tool"}
    mistakes = sorted(
        (_mistake(t) for t in graded if not t.success),
        key=lambda m: (m.reward, -weakness.get(m.tool, 0.0), m.task_id, m.trajectory_id),
    )
    report = StudentReport(
        id="",
        suite=suite,
        split=split,
        checkpoint=checkpoint,
        n=len(graded),
        success=wilson(sum(t.success for t in graded), len(graded), level),
        marks=tuple(marks),
        n_format_errors=sum(mistake.kind == "format" for mistake in mistakes),
        mistakes=tuple(mistakes),
        hardest=tuple(dict.fromkeys(mistake.task_id for mistake in mistakes))[:_HARDEST],
        confidence=_confidence(graded),
    )
    return report.model_copy(
        update={"id": content_id("rep", report.model_dump(exclude={"id", "created_at"}))}
    )


def _marks(graded: Sequence[Trajectory], level: float) -> list[Mark]:
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for trajectory in graded:
        success = float(trajectory.success)
        for tool in dict.fromkeys(call.name for call in _accepted(trajectory)):
            scores["tool", tool].append(success)
        if trajectory.task.group:
            scores["group", trajectory.task.group].append(success)
        for part, value in (trajectory.outcome.parts if trajectory.outcome else {}).items():
            scores["skill", part].append(min(max(value, 0.0), 1.0))
    marks = [
        Mark.model_validate(
            {"kind": kind, "name": name, "n": len(got), "success": wilson(sum(got), len(got), level)}
        )
        for (kind, name), got in scores.items()
        if kind != "group" or len(got) > 1
    ]
    order = {"tool": 0, "skill": 1, "group": 2}
    return sorted(marks, key=lambda m: (order[m.kind], m.success.value, -m.n, m.name))


def _accepted(trajectory: Trajectory) -> Sequence[ToolCall]:
    """Return the accepted calls; what a successful run did where the grader names none."""
    outcome = trajectory.outcome
    if outcome is not None and outcome.expected:
        return outcome.expected
    return _made(trajectory) if trajectory.success else ()


def _made(trajectory: Trajectory) -> list[ToolCall]:
    return [call for step in trajectory.steps for call in step.accepted_calls or step.reply.tool_calls]


def _mistake(trajectory: Trajectory) -> Mistake:
    outcome, made = trajectory.outcome, _made(trajectory)
    assert outcome is not None
    task = trajectory.task
    return Mistake(
        trajectory_id=trajectory.id,
        task_id=task.id,
        prompt=task.prompt[:_LONGEST],
        kind=_kind(trajectory, made),
        said=(_lines(made) or trajectory.answer)[:_LONGEST],
        accepted=(_lines(outcome.expected) or outcome.expected_answer)[:_LONGEST],
        tool=outcome.expected[0].name if outcome.expected else "",
        said_tool=made[0].name if made else "",
        group=task.group,
        reward=outcome.reward,
        feedback=outcome.feedback[:_LONGEST],
    )


def _kind(trajectory: Trajectory, made: Sequence[ToolCall]) -> MistakeKind:
    outcome = trajectory.outcome
    if trajectory.failure is not None and trajectory.failure.kind != "limit":
        return "failed"
    if outcome is None or not outcome.expected:
        return "answer"
    if not made or outcome.parts.get("valid_call", 1.0) < 1.0:
        return "format"
    return "arguments" if made[0].name == outcome.expected[0].name else "tool"


def _lines(calls: Iterable[ToolCall]) -> str:
    return "\n".join(call_text(call) for call in calls)


def _confidence(graded: Sequence[Trajectory]) -> Confidence | None:
    """Return the calibration of the runs whose tokens have probabilities."""
    pairs = []
    for trajectory in graded:
        said = [p for step in trajectory.steps if step.tokens for p in step.tokens.log_probs]
        if said:
            pairs.append((min(math.exp(math.fsum(said) / len(said)), 1.0), trajectory.success))
    if not pairs:
        return None
    mean = sum(p for p, _ in pairs) / len(pairs)
    return Confidence(n=len(pairs), mean=mean, ece=expected_calibration_error(pairs))
