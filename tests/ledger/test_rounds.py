"""Corrections per task are counted run by run, and fall where an agent learns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from agentkd.ledger import Ledger
from agentkd.schema import Correction, Task, Trajectory

START = datetime(2026, 1, 1, tzinfo=UTC)


def store(
    ledger: Ledger, run: str, task: str, *said: str, hour: int, split: str = "train", attempt: int = 0
) -> None:
    trajectory = Trajectory(
        id=f"{run}-{task}-{attempt}", run_id=run, task=Task(id=task, suite="desk", split=split, prompt=task),
        attempt=attempt, created_at=START + timedelta(hours=hour),
    )  # fmt: skip
    ledger.trajectories.begin(trajectory)
    ledger.trajectories.finish(trajectory)
    for number, source in enumerate(said):
        ledger.corrections.add(
            Correction(id=f"{trajectory.id}-{number}", trajectory_id=trajectory.id, text="x", source=source)
        )


def test_rounds_are_runs_in_the_order_of_time(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        assert ledger.corrections.rounds() == []
        store(ledger, "b-later", "one", hour=5)
        store(ledger, "b-later", "two", "person", hour=6)
        store(ledger, "z-first", "one", "person", "person", hour=1)
        store(ledger, "z-first", "two", "grader", hour=2)
        first, later = ledger.corrections.rounds()
        assert (first.run_id, first.n_tasks, first.n_corrections, first.per_task) == ("z-first", 2, 3, 1.5)
        assert first.by_source == {"grader": 1, "person": 2}
        assert (later.run_id, later.per_task, later.suite) == ("b-later", 0.5, "desk")
        assert ledger.corrections.rounds(limit=1) == [later]
        assert ledger.corrections.rounds(suite="other") == []


def test_a_task_that_was_tried_again_counts_once_and_held_out_ones_never(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        store(ledger, "r", "one", "person", hour=1)
        store(ledger, "r", "one", "person", hour=2, attempt=1000)
        store(ledger, "r", "one", hour=3, attempt=1)
        store(ledger, "held", "two", "person", hour=4, split="holdout")
        (only,) = ledger.corrections.rounds()
        assert (only.n_tasks, only.n_corrections) == (2, 2)
