"""The report of a cycle shows corrections per task, run by run."""

from __future__ import annotations

from pathlib import Path

import agentkd


def test_the_report_counts_corrections_per_task_in_json_and_html(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        report = workspace.report()
        html = workspace.report_path().read_text(encoding="utf-8")
        failed = workspace.trajectories(split="train", success=False)
    (ran,) = report.corrections
    assert (ran.n_tasks, ran.n_corrections) == (28, len(failed))
    assert ran.by_source == {"grader": len(failed)}
    assert ran.per_task == len(failed) / 28
    assert "Corrections per task" in html
    assert ran.run_id in html
