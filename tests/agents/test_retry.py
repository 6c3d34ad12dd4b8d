"""A failed training task is tried again with lessons; they are kept only where a try succeeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from agent_parts import Build, OneCall, add, call, memory

from agentkd.agents import Lessons, Retries, RunSummary, retry_note, run_tasks, unrescued
from agentkd.errors import ConfigError, ModelError
from agentkd.ledger import Ledger
from agentkd.plugins import PluginHost
from agentkd.schema import Failure, Memory, Outcome, Task, ToolCall, Trajectory

KEPT = "Say ten more: task "


class Tens:
    """A suite of sums: task `n` wants `add(n, 10)`."""

    name = "tens"

    def tasks(self, n: int, split: str = "train") -> list[Task]:
        return [Task(id=f"{split}-{i}", suite="tens", split=split, prompt=f"{i}") for i in range(n)]

    def environment(self, task: Task) -> OneCall:
        return OneCall([add])

    def grade(self, trajectory: Trajectory) -> Outcome:
        right = call("add", a=int(trajectory.task.prompt), b=10)
        said = [c for step in trajectory.steps for c in step.accepted_calls]
        shows = not trajectory.task.is_held_out
        feedback = f"{len(said)} calls, none right"
        return Outcome(success=said == [right], expected=(right,) if shows else (), feedback=feedback)


def learns(after: int) -> Callable[[Any, Any], ToolCall]:
    """Return a script that is right for even numbers, and for others once it read `after` lessons."""

    def answer(messages: Any, tools: Any) -> ToolCall:
        notes, _, request = messages[1].content.rpartition("Request: ")
        n = int(request)
        return call("add", a=n, b=10 if n % 2 == 0 or notes.count("lesson") >= after else 0)

    return answer


class Desk:
    """Lessons as a cycle would give them; remembers what was asked and kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.kept: list[Memory] = []
        self.seen: set[str] = set()
        self.dies = False

    def lessons(self, failed: Sequence[Trajectory]) -> Lessons:
        self.asked.append(tuple(t.id for t in failed))
        return Lessons("lesson " * len(failed), (memory(KEPT + failed[0].task.id),))

    def keep(self, memories: Sequence[Memory]) -> None:
        if self.dies:
            raise KeyboardInterrupt
        self.kept.extend(memories)
        self.seen |= {id_ for failed in self.asked for id_ in failed}

    def known(self) -> set[str]:
        return self.seen


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def work(build: Build, ledger: Ledger, host: PluginHost, desk: Desk) -> Any:
    def run(script: Any, *, n: int = 4, retries: int = 3, split: str = "train", **options: Any) -> RunSummary:
        suite: Any = Tens()
        options = {"run_id": "r", "workers": 2, "keep_expected": split == "train", **options}
        return run_tasks(
            build(script, world=suite.environment),
            suite.tasks(n, split),
            suite=suite,
            ledger=ledger,
            hooks=host.hooks,
            retries=Retries(retries, desk.lessons, desk.keep, desk.known),
            **options,
        )

    return run


def attempts(ledger: Ledger, task_id: str) -> list[tuple[int, bool]]:
    return sorted((t.attempt, t.success) for t in ledger.trajectories.list(task_id=task_id))


def test_a_rescued_task_keeps_its_lessons_and_every_try(work: Any, ledger: Ledger, desk: Desk) -> None:
    summary = work(learns(after=2))
    assert (summary.n, summary.succeeded, summary.retried, summary.rescued) == (4, 2, 2, 2)
    assert attempts(ledger, "train-0") == [(0, True)]
    assert attempts(ledger, "train-1") == [(0, False), (1000, False), (2000, True)]
    assert sorted(m.content for m in desk.kept) == [KEPT + "train-1", KEPT + "train-3"]
    assert sorted(map(len, desk.asked)) == [1, 1, 2, 2]


def test_lessons_of_a_task_that_nothing_rescued_are_forgotten(work: Any, ledger: Ledger, desk: Desk) -> None:
    summary = work(learns(after=9), retries=2)
    assert (summary.succeeded, summary.retried, summary.rescued) == (2, 2, 0)
    assert attempts(ledger, "train-3") == [(0, False), (1000, False), (2000, False)]
    assert desk.kept == []
    tries = ledger.trajectories.list(run_id="r")
    assert unrescued(tries) == {t.id for t in tries if t.task.id in ("train-1", "train-3")}


def test_held_out_tasks_are_tried_once(work: Any, ledger: Ledger, desk: Desk) -> None:
    summary = work(learns(after=1), split="holdout")
    assert (summary.succeeded, summary.retried) == (2, 0)
    assert work(learns(after=1), split="holdout", keep_expected=True, run_id="again").retried == 0
    assert desk.asked == []
    assert {t.attempt for t in ledger.trajectories.list()} == {0}


def test_every_attempt_has_retries_of_its_own(work: Any, ledger: Ledger) -> None:
    summary = work(learns(after=1), n=2, attempts=2)
    assert (summary.n, summary.succeeded, summary.rescued) == (4, 2, 2)
    assert attempts(ledger, "train-1") == [(0, False), (1, False), (1000, True), (1001, True)]
    with pytest.raises(ConfigError, match="at most"):
        work(learns(after=1), n=1, attempts=1001)


def test_a_run_that_was_cut_off_goes_on_between_two_tries(work: Any, ledger: Ledger, desk: Desk) -> None:
    first = work(learns(after=3), retries=1)
    assert (first.retried, first.rescued) == (2, 0)
    desk.asked.clear()
    second = work(learns(after=3), retries=3)
    assert (second.done_before, second.succeeded, second.retried, second.rescued) == (4, 2, 2, 2)
    assert attempts(ledger, "train-1") == [(0, False), (1000, False), (2000, False), (3000, True)]
    assert sorted(map(len, desk.asked)) == [2, 2, 3, 3]
    desk.asked.clear()
    third = work(learns(after=3), retries=3)
    assert desk.asked == []  # their lessons are kept
    assert (third.done_before, third.succeeded, third.rescued, third.usage.prompt_tokens) == (4, 2, 2, 0)


def test_lessons_of_a_run_that_died_before_it_kept_them_come_in_later(work: Any, desk: Desk) -> None:
    desk.dies = True
    with pytest.raises(KeyboardInterrupt):
        work(learns(after=2))
    assert desk.kept == []
    desk.dies = False
    again = work(learns(after=2))
    assert (again.done_before, again.rescued) == (4, 2)
    assert sorted(m.content for m in desk.kept) == [KEPT + "train-1", KEPT + "train-3"]
    work(learns(after=2))
    assert len(desk.kept) == 2


def test_a_model_that_cannot_be_reached_is_not_asked_again(work: Any, desk: Desk) -> None:
    def script(messages: Any, tools: Any) -> ToolCall:
        if messages[1].content.endswith("1"):
            raise ModelError("gone")
        return learns(after=9)(messages, tools)

    summary = work(script, n=2)
    assert (summary.failures, summary.retried) == ({"model": 1}, 0)


def test_a_note_tells_what_was_done_and_what_was_wrong() -> None:
    from agentkd.schema import Message, Step, ToolResult

    step = Step(
        index=0,
        reply=Message(role="assistant"),
        accepted_calls=(call("add", a=1, b=2),),
        results=(ToolResult(error="no such\nnumber"),),
    )
    failed = Trajectory(
        id="t", run_id="r", task=Task(id="1", prompt="?"), steps=(step,), answer="3",
        failure=Failure(kind="limit", message="x"),
    )  # fmt: skip
    assert retry_note([failed], lambda t: "another sum").splitlines()[1:-1] == [
        "An earlier try of this request failed.",
        'It called {"name": "add", "arguments": {"a": 1, "b": 2}} and got the error: no such number',
        "It answered: 3",
        "What was wrong: another sum",
    ]
