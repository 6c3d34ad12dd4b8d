"""Trajectories are written while they happen, finished once, and found again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import Ledger
from agentkd.schema import Outcome, TokenTrace

Make = Any


def test_a_finished_trajectory_comes_back_whole(ledger: Ledger, make: Make) -> None:
    written = make.trajectory(1)
    assert ledger.trajectories.finish(written)
    assert ledger.trajectories.get(written.id) == written


def test_steps_are_stored_while_the_run_happens(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.begin(make.trajectory(1, success=None, steps=()))
    ledger.trajectories.add_step("trj-1", make.step(0))
    ledger.trajectories.add_step("trj-1", make.step(1, "second"))
    ledger.trajectories.add_step("trj-1", make.step(1, "second, run again"))
    running = ledger.trajectories.get("trj-1")
    assert [step.reply.content for step in running.steps] == ["I look it up.", "second, run again"]
    assert [t.id for t in ledger.trajectories.unfinished("run-1")] == ["trj-1"]
    assert ledger.trajectories.list() == []


def test_finish_replaces_the_partial_body_and_happens_once(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.begin(make.trajectory(1, success=None, steps=()))
    for index in range(4):
        ledger.trajectories.add_step("trj-1", make.step(index))
    assert ledger.trajectories.finish(make.trajectory(1))
    before = ledger.counts()
    assert not ledger.trajectories.finish(make.trajectory(1, answer="another"))
    assert not ledger.trajectories.begin(make.trajectory(1))
    ledger.trajectories.add_step("trj-1", make.step(7))
    assert ledger.counts() == before
    assert before["steps"] == 2
    assert ledger.trajectories.get("trj-1").answer == "On its way."


def test_a_killed_attempt_leaves_nothing_when_it_begins_anew(ledger: Ledger, make: Make) -> None:
    ledger.memories.admit([memory := make.memory("look it up")])
    ledger.trajectories.begin(make.trajectory(1, success=None, steps=()))
    ledger.trajectories.add_step("trj-1", make.step(0))
    ledger.trajectories.add_step("trj-1", make.step(1))
    ledger.memories.record_recall("trj-1", 1, [make.hit(memory)])
    ledger.memories.record_outcome("trj-1", True)
    assert ledger.trajectories.begin(make.trajectory(1, success=None, steps=()))
    assert ledger.counts()["steps"] == 0
    assert ledger.counts()["recalls"] == 0
    assert ledger.memories.get(memory.id).utility.recalls == 0


def test_done_tasks_say_what_a_resumed_run_may_skip(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    ledger.trajectories.finish(make.trajectory(2, success=False))
    ledger.trajectories.begin(make.trajectory(3, success=None))
    ledger.trajectories.finish(make.trajectory(4, run_id="run-2"))
    assert ledger.trajectories.done_tasks("run-1") == {("task-1", 0), ("task-2", 0)}


def test_trajectories_are_found_by_run_suite_split_success_and_time(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(3, success=None))
    ledger.trajectories.finish(make.trajectory(1))
    ledger.trajectories.finish(make.trajectory(2, success=False, split="dev"))
    ledger.trajectories.finish(make.trajectory(4, run_id="run-2"))

    def ids(**query: Any) -> list[str]:
        return [t.id for t in ledger.trajectories.list(**query)]

    second = make.trajectory(2).created_at
    assert ids() == ["trj-1", "trj-2", "trj-3", "trj-4"]
    assert ids(run_id="run-1", success=True) == ["trj-1"]
    assert ids(success=False) == ["trj-2"]
    assert ids(split="dev") == ["trj-2"]
    assert ids(suite="other") == []
    assert ids(task_id="task-4") == ["trj-4"]
    assert ids(since=second, until=second + timedelta(seconds=2)) == ["trj-2", "trj-3"]
    assert ids(limit=2) == ["trj-1", "trj-2"]
    assert ids(limit=2, latest=True) == ["trj-3", "trj-4"]
    assert [t.id for t in ledger.trajectories.get_many(["trj-4", "trj-1", "no"])] == ["trj-1", "trj-4"]


def test_runs_are_summed_up(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    ledger.trajectories.finish(make.trajectory(2, success=False))
    ledger.trajectories.begin(make.trajectory(3, success=None))
    (run,) = ledger.trajectories.runs()
    assert (run.run_id, run.suite, run.n, run.n_finished, run.n_success) == ("run-1", "shop", 3, 2, 1)
    assert run.n_failed == 1
    assert run.started_at == make.trajectory(1).created_at


def test_a_grade_given_later_settles_the_recalls(ledger: Ledger, make: Make) -> None:
    ledger.memories.admit([memory := make.memory("look it up")])
    ledger.trajectories.begin(make.trajectory(1, success=None))
    ledger.memories.record_recall("trj-1", 0, [make.hit(memory)])
    ledger.trajectories.finish(make.trajectory(1, success=None))
    assert ledger.memories.get(memory.id).utility.recalls == 0
    ledger.trajectories.grade("trj-1", Outcome(success=True, reward=1.0))
    assert ledger.trajectories.get("trj-1").success
    assert ledger.trajectories.list(success=True)[0].id == "trj-1"
    assert ledger.memories.get(memory.id).utility.wins == 1


def test_strange_text_and_numbers_survive(ledger: Ledger, make: Make) -> None:
    trace = TokenTrace(completion_ids=(1,), log_probs=(float("-inf"),))
    written = make.trajectory(1, answer="a\x00b \ufffd ü 🜁", steps=(make.step(0, tokens=trace),))
    ledger.trajectories.finish(written)
    assert ledger.trajectories.get("trj-1") == written


def test_what_is_unknown_is_said(ledger: Ledger, make: Make) -> None:
    with pytest.raises(NotFoundError, match="`trj-9`"):
        ledger.trajectories.get("trj-9")
    with pytest.raises(NotFoundError, match="`trj-9`"):
        ledger.trajectories.add_step("trj-9", make.step(0))
    with pytest.raises(NotFoundError, match="`trj-9`"):
        ledger.trajectories.grade("trj-9", Outcome(success=True))
    with pytest.raises(NotFoundError, match="`trj-9`"):
        ledger.corrections.add(make.correction(1, "trj-9"))
    with pytest.raises(DataError, match="does not hold"):
        ledger.memories.record_recall("trj-9", 0, [make.hit(make.memory("x"))])


def test_corrections_are_stored_once_and_found(ledger: Ledger, make: Make) -> None:
    for number in (1, 2):
        ledger.trajectories.finish(make.trajectory(number))
    assert ledger.corrections.add(make.correction(2, "trj-2"))
    assert ledger.corrections.add(make.correction(1, "trj-1"))
    assert not ledger.corrections.add(make.correction(1, "trj-1", "other words"))
    assert ledger.corrections.get("cor-1") == make.correction(1, "trj-1")
    assert [c.id for c in ledger.corrections.list()] == ["cor-1", "cor-2"]
    assert [c.id for c in ledger.corrections.list(source="grader", run_id="run-1", limit=1)] == ["cor-1"]
    assert ledger.corrections.list(source="person") == []
    assert [c.id for c in ledger.corrections.for_trajectory("trj-2")] == ["cor-2"]
    with pytest.raises(NotFoundError):
        ledger.corrections.get("cor-9")
