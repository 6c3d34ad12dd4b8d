"""A student report as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentkd.cli.render import print_facts, print_table, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.schema import StudentReport

__all__ = ["print_student"]

_MOST = 12


def print_student(report: StudentReport, console: Console) -> None:
    """Print how a student does: tools, skills and groups, and what it said beside what is right."""
    from agentkd.evaluate import interval_text

    confidence = report.confidence
    print_facts(
        console,
        [
            ("report", report.id),
            ("student", report.checkpoint),
            ("tasks", f"{report.n} of {report.suite or 'the ledger'} / {report.split or 'runs'}"),
            ("done", interval_text(report.success)),
            ("format errors", report.n_format_errors),
            ("confidence", f"{confidence.mean:.3f}, ECE {confidence.ece:.3f}" if confidence else ""),
            ("hardest", ", ".join(report.hardest)),
        ],
    )
    if report.marks:
        console.print()
        rows = [[m.kind, m.name, m.n, interval_text(m.success)] for m in report.marks]
        print_table(console, ["", "name", "tasks", "done"], rows[:_MOST])
    if report.mistakes:
        console.print()
        wrong = [
            [m.kind, m.task_id, shortened(m.said or "nothing", 60), shortened(m.accepted, 60)]
            for m in report.mistakes[:_MOST]
        ]
        print_table(console, ["mistake", "task", "said", "accepted"], wrong)
