"""Backward transfer: what a candidate still does of what earlier cycles taught."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentkd.cycle.looks import decided_at
from agentkd.cycle.parts import Parts
from agentkd.schema import ArmResult, CycleReport, Evaluation, TransferCell, TransferRow

__all__ = ["earlier_reports", "kept_cells", "transfer_cells", "transfer_matrix"]

MOST_CYCLES = 20
"""Cycles that a row of the matrix looks back to, and rows that a report keeps: the newest."""


def earlier_reports(parts: Parts, candidate: str, before: int | None = None) -> list[CycleReport]:
    """Return the finished cycles that evaluated another candidate than this one, oldest first.

    `before` leaves out the cycle of this number and later ones.
    """
    reports = [r for r in parts.ledger.cycles.list("done") if before is None or r.number < before]
    done = [r for r in reports if r.evaluations and r.checkpoint != candidate]
    return sorted(done, key=lambda report: report.number)[-MOST_CYCLES:]


def transfer_cells(
    parts: Parts, candidate: str, evaluations: Iterable[Evaluation], before: int | None = None
) -> tuple[TransferCell, ...]:
    """Hold what a candidate does now against what each earlier cycle's own candidate did on the same tasks.

    Args:
        parts: The workspace.
        candidate: Name of the checkpoint.
        evaluations: Evaluations of the candidate: those of its cycle, and `probe_earlier`'s.
        before: Number of a cycle: only earlier ones count.
    """
    measured = list(evaluations)
    cells = (_cell(report, measured) for report in earlier_reports(parts, candidate, before))
    return tuple(cell for cell in cells if cell is not None)


def kept_cells(
    parts: Parts, cells: Iterable[TransferCell], before: int | None = None
) -> tuple[TransferCell, ...]:
    """Return the cells of what is still to be kept: of no checkpoint that was rolled back or tainted.

    `before` is the number of a cycle: what came after its decision does not count.
    """
    reports = parts.ledger.cycles.list("done")
    decided = next((decided_at(report) for report in reports if report.number == before), None)
    withdrawn = parts.ledger.checkpoints.withdrawn(decided)
    gone = {report.number for report in reports if report.checkpoint in withdrawn}
    return tuple(cell for cell in cells if cell.cycle not in gone)


def transfer_matrix(
    parts: Parts,
    candidate: str,
    number: int,
    evaluations: Sequence[Evaluation],
    earlier: Sequence[Evaluation],
) -> tuple[TransferRow, ...]:
    """Return the rows of the newest cycles and that of a new one, whose last cell is on its own tasks."""
    if not candidate or not evaluations:
        return ()
    cells = transfer_cells(parts, candidate, [*evaluations, *earlier], number)
    own = evaluations[0]
    last = TransferCell(
        cycle=number, suite=own.suite, split=own.split, success=own.arm("student").success, was_promoted=False
    )
    row = TransferRow(cycle=number, checkpoint=candidate, cells=(*cells, last))
    done = sorted(parts.ledger.cycles.list("done"), key=lambda report: report.number)
    known = [report.transfer[-1] for report in done if report.transfer and report.number < number]
    return (*known[1 - MOST_CYCLES :], row)


def _cell(report: CycleReport, measured: Sequence[Evaluation]) -> TransferCell | None:
    """Compare on the tasks that both did; None where there is none."""
    from agentkd.evaluate import compare, within

    then = report.evaluations[0]
    theirs = _student(then)
    for evaluation in measured:
        ours = _student(evaluation)
        if ours is None or theirs is None or (evaluation.suite, evaluation.split) != (then.suite, then.split):
            continue
        shared = within(ours, {result.task_id for result in theirs.results})
        if shared.n:
            then_named = theirs.model_copy(update={"name": f"cycle-{report.number}"})
            return TransferCell(
                cycle=report.number,
                suite=then.suite,
                split=then.split,
                success=shared.success,
                paired=compare(shared, then_named, seed=evaluation.seed),
                was_promoted=report.verdict is not None and report.verdict.promote,
            )
    return None


def _student(evaluation: Evaluation) -> ArmResult | None:
    return next((arm for arm in evaluation.arms if arm.name == "student"), None)
