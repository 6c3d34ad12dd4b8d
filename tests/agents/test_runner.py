"""A run over tasks is graded, stored one by one, gone on with, and stops where a model cannot be reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, OneCall, add, call

from agentkd import hookimpl
from agentkd.agents import RunSummary, open_checkpointer, run_tasks
from agentkd.errors import BudgetError, ConfigError, DataError, ModelError, PluginError
from agentkd.ledger import Ledger
from agentkd.plugins import PluginHost
from agentkd.schema import Correction, Outcome, Task, ToolCall, Trajectory
from agentkd.tools import ToolBox


class Sums:
    """A suite of sums: task `n` wants `add(n, n)`."""

    name = "sums"

    def __init__(self, leaks: bool = False) -> None:
        self.leaks = leaks

    def splits(self) -> dict[str, int]:
        return {"train": 40, "holdout": 40}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> list[Task]:
        return [Task(id=f"{split}-{i}", suite="sums", split=split, prompt=f"{i}") for i in range(n or 40)]

    def environment(self, task: Task) -> OneCall:
        return OneCall([add])

    def grade(self, trajectory: Trajectory) -> Outcome:
        n = int(trajectory.task.prompt)
        right = call("add", a=n, b=n)
        said = [c for step in trajectory.steps for c in step.accepted_calls]
        shows = trajectory.task.split == "train" or self.leaks
        return Outcome(
            success=said == [right], expected=(right,) if shows else (), feedback="another sum", grader="sums"
        )

    def baselines(self, train: Any, kit: Any) -> list[Any]:
        return []


def clever(messages: Any, tools: Any) -> ToolCall:
    """Answer right for even numbers."""
    n = int(messages[1].content.removeprefix("Request: "))
    return call("add", a=n, b=n + n % 2)


@pytest.fixture
def work(build: Build, ledger: Ledger, host: PluginHost) -> Any:
    def run(
        script: Any = clever, *, split: str = "train", n: int = 10, suite: Any = None, **options: Any
    ) -> RunSummary:
        suite = suite or Sums()
        agent = build(script, world=suite.environment)
        options = {"run_id": "r", "workers": 4, "keep_expected": split == "train", **options}
        return run_tasks(
            agent, suite.tasks(split, n), suite=suite, ledger=ledger, hooks=host.hooks, **options
        )

    return run


def test_every_task_is_graded_and_stored(work: Any, ledger: Ledger) -> None:
    summary = work()
    assert (summary.n, summary.done_before, summary.succeeded, summary.failures) == (10, 0, 5, {})
    assert summary.usage.prompt_tokens > 0
    stored = ledger.trajectories.list(run_id="r")
    assert {t.task.id for t in stored if t.success} == {f"train-{i}" for i in range(0, 10, 2)}
    assert all(t.outcome is not None and t.outcome.grader == "sums" for t in stored)


def test_a_failed_training_task_gets_the_graders_correction(work: Any, ledger: Ledger) -> None:
    work()
    corrections = ledger.corrections.list(source="grader")
    assert len(corrections) == 5
    correction = next(c for c in corrections if c.accepted == (call("add", a=3, b=3),))
    assert (correction.kind, correction.text, correction.step) == ("answer", "another sum", None)
    assert correction.proposed == (call("add", a=3, b=4),)


def test_held_out_answers_stay_with_the_suite(work: Any, ledger: Ledger) -> None:
    assert work(split="holdout").succeeded == 5
    assert ledger.corrections.list() == []
    with pytest.raises(DataError, match="gave the answer of the held-out task `holdout-"):
        work(split="holdout", suite=Sums(leaks=True), run_id="leaky")


class Words(Sums):
    """The same tasks, answered in words: task `n` wants its number doubled."""

    def environment(self, task: Task) -> Any:
        return ToolBox([])

    def grade(self, trajectory: Trajectory) -> Outcome:
        right = str(2 * int(trajectory.task.prompt))
        shows = trajectory.task.split == "train" or self.leaks
        return Outcome(success=trajectory.answer == right, expected_answer=right if shows else "")


def test_an_accepted_text_corrects_failed_training_tasks_and_stays_away_from_a_holdout(
    work: Any, ledger: Ledger
) -> None:
    def says_four(messages: Any, tools: Any) -> str:
        return "4"

    assert work(says_four, suite=Words(), n=4).succeeded == 1
    corrections = ledger.corrections.list(source="grader")
    assert sorted(c.accepted_answer for c in corrections) == ["0", "2", "6"]
    assert {(c.kind, c.step, c.accepted, c.proposed) for c in corrections} == {("answer", None, (), ())}
    work(says_four, suite=Words(), split="holdout", run_id="held")
    assert len(ledger.corrections.list()) == 3
    with pytest.raises(DataError, match="gave the answer of the held-out task `holdout-"):
        work(says_four, suite=Words(leaks=True), split="holdout", run_id="leaky")


def test_a_run_goes_on_where_it_was_cut_off(work: Any, ledger: Ledger) -> None:
    seen: list[str] = []
    lock = threading.Lock()

    def dies(messages: Any, tools: Any) -> ToolCall:
        with lock:
            seen.append(messages[1].content)
            if len(seen) == 7:
                raise KeyboardInterrupt
        return clever(messages, tools)

    with pytest.raises(KeyboardInterrupt):
        work(dies, workers=1)
    done = ledger.trajectories.done_tasks("r")
    assert 0 < len(done) < 10
    summary = work()
    assert (summary.n, summary.done_before, summary.succeeded) == (10, len(done), 5)
    assert ledger.counts()["trajectories"] == 10
    assert ledger.counts()["steps"] == 10
    assert ledger.counts()["corrections"] == 5
    assert work().done_before == 10


def test_what_a_file_calls_a_part_of_a_run_is_not_done(work: Any, ledger: Ledger) -> None:
    work(run_id="r")
    [mine, *_] = ledger.trajectories.list(run_id="r")
    claim = {"id": "tra-claim", "run_id": "other", "imported_from": "pack.zip"}
    ledger.trajectories.finish(mine.model_copy(update=claim))
    summary = work(run_id="other")
    assert (summary.done_before, summary.n) == (0, len(ledger.trajectories.of_run("other")))


def test_attempts_are_counted_apart(work: Any, ledger: Ledger) -> None:
    assert work(attempts=2, n=3).n == 6
    assert len(ledger.trajectories.done_tasks("r")) == 6


def test_tasks_run_side_by_side_but_not_more_than_allowed(work: Any) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def slow(messages: Any, tools: Any) -> ToolCall:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return clever(messages, tools)

    work(slow, n=12, workers=3)
    assert most[0] == 3


def test_a_model_that_cannot_be_reached_stops_the_run_and_stores_nothing(work: Any, ledger: Ledger) -> None:
    asked: list[int] = []

    def gone(messages: Any, tools: Any) -> ToolCall:
        asked.append(1)
        raise ModelError("model `x` cannot be reached", hint="start the server")

    with pytest.raises(ModelError, match=r"^model `x` cannot be reached \(start the server\)$"):
        work(gone, n=40)
    assert len(asked) < 12
    assert set(ledger.counts().values()) == {0}
    with pytest.raises(ModelError):
        work(gone, n=1)
    assert work(n=40).succeeded == 20


def test_single_model_errors_are_data(work: Any, ledger: Ledger) -> None:
    def fails_on_three(messages: Any, tools: Any) -> ToolCall:
        if messages[1].content == "Request: 3":
            raise ModelError("too long")
        return clever(messages, tools)

    summary = work(fails_on_three)
    assert summary.failures == {"model": 1}
    (failed,) = [t for t in ledger.trajectories.list(run_id="r") if t.failure]
    assert (failed.task.id, failed.success) == ("train-3", False)


def test_a_first_failure_is_stored_once_an_answer_came(work: Any, ledger: Ledger) -> None:
    def fails_on_first(messages: Any, tools: Any) -> ToolCall:
        if messages[1].content in ("Request: 0", "Request: 1"):
            raise ModelError("busy")
        return clever(messages, tools)

    assert work(fails_on_first, workers=1).failures == {"model": 2}
    assert len(ledger.trajectories.done_tasks("r")) == 10


def test_a_met_ceiling_stops_the_run_and_keeps_what_was_paid_for(work: Any, ledger: Ledger) -> None:
    count = [0]
    lock = threading.Lock()

    def costly(messages: Any, tools: Any) -> ToolCall:
        with lock:
            count[0] += 1
            if count[0] > 5:
                raise BudgetError("enough")
        time.sleep(0.01)
        return clever(messages, tools)

    with pytest.raises(BudgetError):
        work(costly, workers=2)
    assert len(ledger.trajectories.done_tasks("r")) == 5
    assert work().done_before == 5


def test_an_agent_that_asks_a_person_runs_no_suite(build: Build, ledger: Ledger) -> None:
    agent = build(clever, interrupt_on=["add"])
    with pytest.raises(ConfigError, match="asks a person"):
        run_tasks(agent, Sums().tasks("train", 1), suite=Sums(), ledger=ledger, run_id="r")


def test_a_checkpointer_keeps_nothing_of_finished_tasks(build: Build, ledger: Ledger, tmp_path: Path) -> None:
    saver = open_checkpointer(tmp_path / "agents.db")
    agent = build(clever, world=Sums().environment, checkpointer=saver)
    suite = Sums()
    summary = run_tasks(
        agent, suite.tasks("train", 8), suite=suite, ledger=ledger, run_id="r", keep_expected=True
    )
    assert summary.succeeded == 4
    assert saver.conn.execute("select count(*) from checkpoints").fetchone() == (0,)
    saver.conn.close()


def test_a_broken_grader_is_named(work: Any) -> None:
    class Broken(Sums):
        def grade(self, trajectory: Trajectory) -> Outcome:
            raise ZeroDivisionError("oops")

    with pytest.raises(PluginError, match="the grader of suite `sums`: ZeroDivisionError"):
        work(suite=Broken())


def test_plugins_hear_of_graded_runs_and_corrections(work: Any, host: PluginHost, ledger: Ledger) -> None:
    heard: list[Any] = []

    class Plugin:
        @hookimpl
        def before_run(self, task: Task) -> bool:
            return task.id != "train-2"

        @hookimpl
        def after_run(self, trajectory: Trajectory) -> None:
            heard.append((trajectory.task.id, trajectory.outcome is not None))

        @hookimpl
        def after_correction(self, correction: Correction) -> None:
            assert ledger.corrections.get(correction.id) == correction
            heard.append(correction.source)

    host.add(Plugin(), "listener")
    summary = work(n=4, workers=1)
    assert summary.failures == {"cancelled": 1}
    assert heard == [
        ("train-0", True), ("train-1", True), "grader", ("train-2", False), ("train-3", True), "grader",
    ]  # fmt: skip


def test_progress_counts_earlier_tasks_too(work: Any) -> None:
    moves: list[float] = []

    class Shown:
        def say(self, line: str) -> None: ...

        @contextmanager
        def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Any]:
            assert (label, total, unit) == ("run tester", 10, "tasks")
            yield self

        def advance(self, n: float = 1, *, note: str = "") -> None:
            moves.append(n)

    work(n=4)
    work(progress=Shown())
    assert moves == [4, *[1] * 6]


def test_a_run_costs_little_besides_the_model(work: Any) -> None:
    work(n=4, run_id="warm")
    started = time.process_time()
    work(n=40, run_id="timed")
    assert (time.process_time() - started) / 40 < 0.05  # measured 0.008 on an idle core
