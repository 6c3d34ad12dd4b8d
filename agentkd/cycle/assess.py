"""Assess the student: an exam on training-side tasks, without memories, as a report for its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.cycle.evaluation import run_key
from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import run_stage, tools_of
from agentkd.errors import ConfigError, DataError
from agentkd.schema import ASSESS_SPLIT, StudentReport, Task, Trajectory, is_held_out
from agentkd.trust import trust_of_run

__all__ = ["Exam", "assess"]


@dataclass(frozen=True)
class Exam:
    """What an assessment gave."""

    report: StudentReport
    """Figures and mistakes; it is in the ledger."""
    runs: Sequence[Trajectory]
    """The graded runs, with the tools of their tasks."""
    n_untrusted: int = 0
    """Graded runs that no teacher may see, because untrusted words came in."""


def assess(
    parts: Parts,
    *,
    suite: str,
    split: str = "",
    n: int | None = None,
    seed: int = 0,
    checkpoint: str = "",
    is_for_teacher: bool = False,
) -> Exam:
    """Let the student do tasks of a training split and report how it does; what was run before is read.

    Without a suite the report is made of its graded runs that the ledger holds. `checkpoint` is what
    serves by default. What a teacher writes after a run becomes rows: for one, runs that untrusted words
    came into are left out while `[trust] gate` is on. Raises ConfigError for a held-out split.
    """
    from agentkd.evaluate import make_student_report

    serving = parts.serving()
    name = checkpoint or (serving.name if serving else "base")
    model = "base" if name == "base" else f"agentkd/{parts.checkpoint(name).name}"
    split = split or parts.settings.cycle.split
    if is_held_out(split):
        raise ConfigError(
            f"the student cannot be assessed on the held-out split `{split}`: a teacher reads the report",
            hint="set `[synthesize] split` to a training split",
            key="synthesize.split",
        )
    if suite:
        runs = _sit(parts, suite, split, n, seed, model)
    else:
        acted = parts.model(model).name
        runs = [t for t in parts.ledger.trajectories.list() if t.task.is_lived and t.model == acted]
    gone, scope = parts.ledger.revocations.trajectories(), parts.settings.memory.scope
    runs = [run for run in runs if run.id not in gone and scope.may_teach(run.scope)]  # a teacher reads them
    n_graded = sum(run.outcome is not None for run in runs)
    if is_for_teacher and parts.settings.trust.gate:
        runs = [run for run in runs if trust_of_run(run, parts.settings.trust).is_clean]
    report = make_student_report(
        runs, suite=suite, split=split if suite else "", checkpoint=name, level=parts.settings.evaluate.level
    )
    if not parts.ledger.teaching.add_report(report):  # the same exam was sat before
        report = parts.ledger.teaching.report(report.id)
    find = tools_of(parts)
    graded = [_with_tools(run, find(run.task)) for run in runs if run.outcome is not None]
    return Exam(report, graded, n_graded - len(graded))


def _sit(parts: Parts, suite: str, split: str, n: int | None, seed: int, model: str) -> list[Trajectory]:
    chosen = parts.suite(suite)
    if chosen.splits().get(split, 0) == 0:
        raise ConfigError(f"suite `{suite}` has no tasks in split `{split}`", key="synthesize.split")
    tasks = [_of_exam(task) for task in chosen.tasks(split, n, seed)]
    run_id = run_key(parts, "assess", suite, tasks, model, False, seed)
    run_stage(
        parts, suite=chosen, tasks=tasks, run_id=run_id, model=model, uses_memory=False, label="assess",
        has_trials=False,
    )  # fmt: skip
    return parts.ledger.trajectories.of_run(run_id)


def _of_exam(task: Task) -> Task:
    """Return a task under the split of exams: what happens on it is neither distilled nor compiled."""
    if task.is_held_out:
        raise DataError(f"task `{task.id}` is held out and is never part of an exam")
    return task.model_copy(update={"split": ASSESS_SPLIT})


def _with_tools(run: Trajectory, tools: Sequence[object]) -> Trajectory:
    return run.model_copy(update={"task": run.task.model_copy(update={"tools": tuple(tools)})})
