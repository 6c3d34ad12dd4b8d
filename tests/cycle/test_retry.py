"""`[run] retries` tries failed training tasks again, with lessons that hold no answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.distill import candidate
from agentkd.plugins import Component
from agentkd.schema import Memory, Message, Reply, Scope, ToolCall, ToolSpec, Usage

BOOK = ToolSpec(
    name="book",
    description="Book seats.",
    parameters={
        "type": "object",
        "properties": {"row": {"type": "integer"}, "side": {"type": "string"}},
        "required": ["row", "side"],
    },
)
N_TASKS = 4


class Rule:
    """Books the aisle only where a note says that something was wrong; never for task 3."""

    name = "rule"

    def __init__(self) -> None:
        self.read: list[str] = []

    def reply(self, messages: Any, tools: Any = (), **sampling: Any) -> Reply:
        text = messages[1].content
        self.read.append(text)
        row = int(text.rpartition("row ")[2].split()[0])
        side = "aisle" if "What was wrong" in text and row != 3 else "window"
        call = ToolCall(name="book", arguments={"row": row, "side": side})
        return Reply(text=call.model_dump_json(), tool_calls=(call,), usage=Usage(usd=0.0))


class Blame:
    """Makes a lesson of every failed try."""

    name = "blame"

    def distill(self, trajectories: Any, corrections: Any, kit: Any) -> Iterator[Memory]:
        for trajectory in trajectories:
            if not trajectory.success:
                task = trajectory.task.id
                yield candidate(
                    "pitfall", f"{task} is asked", f"blame {task}", trajectories=[trajectory], scope=Scope(),
                    origin=self.name, confidence=0.9, query=trajectory.id,
                )  # fmt: skip


class Plugin:
    """Offers the rule as a model and the blame as a distiller."""

    def __init__(self) -> None:
        self.rule = Rule()

    @agentkd.hookimpl
    def components(self) -> Iterator[Component[Any]]:
        yield Component("model", "rule", "A rule.", lambda settings, kit: self.rule)
        yield Component("distiller", "blame", "Blames.", lambda settings, kit: Blame())


def write_tasks(path: Path) -> None:
    rows = [
        {
            "id": f"{split}-{row}",
            "prompt": f"Book row {row + start} please, {split}.",
            "split": split,
            "tools": [BOOK.model_dump(mode="json")],
            "calls": [{"name": "book", "arguments": {"row": row + start, "side": "aisle"}}],
        }
        for split, start in (("train", 0), ("holdout", 10))
        for row in range(N_TASKS)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest.fixture
def open_workspace(tmp_path: Path, plugin: Plugin) -> Callable[..., agentkd.Workspace]:
    write_tasks(tmp_path / "tasks.jsonl")

    def make(distillers: tuple[str, ...] = ("case", "correction"), **run: Any) -> agentkd.Workspace:
        settings = {
            "roles": {"actor": "rule"},
            "agent": {"max_steps": 1, "force_tool_call": True},
            "memory": {"embedder": "hashing", "trial_share": 0.0},
            "distill": {"distillers": list(distillers), "max_memories_per_trajectory": 9},
            "cycle": {"suite": "jsonl"},
            "suite": {"jsonl": {"path": str(tmp_path / "tasks.jsonl")}},
            "run": run,
        }
        return agentkd.Workspace(tmp_path / "workspace", settings=settings, plugins=[plugin])

    return make


def test_failed_tasks_are_rescued_and_their_lessons_admitted(
    open_workspace: Callable[..., agentkd.Workspace], plugin: Plugin
) -> None:
    with open_workspace(retries=2) as workspace:
        summary = workspace.run()
        assert (summary.n, summary.succeeded, summary.retried, summary.rescued) == (4, 0, 4, 3)
        retried = [t for t in workspace.trajectories() if t.attempt >= 1000]
        assert sorted(t.attempt for t in retried) == [1000, 1000, 1000, 1000, 2000]
        rescued = {t.task.id for t in retried if t.success}
        assert rescued == {"train-0", "train-1", "train-2"}
        known = workspace.ledger.memories.list()
        rests_on = {
            workspace.ledger.trajectories.get(t).task.id for m in known for t in m.evidence.trajectories
        }
        assert rests_on == rescued
        assert all(m.kind != "case" for m in known)


def test_no_retry_is_told_the_answer(
    open_workspace: Callable[..., agentkd.Workspace], plugin: Plugin
) -> None:
    with open_workspace(retries=3) as workspace:
        workspace.run()
    notes = [text.rpartition("Request: ")[0] for text in plugin.rule.read]
    assert sum(bool(note) for note in notes) > N_TASKS
    assert not any("aisle" in note for note in notes)


def test_the_distill_phase_drops_what_a_retry_tried_in_vain(
    open_workspace: Callable[..., agentkd.Workspace],
) -> None:
    with open_workspace(retries=1) as workspace:
        workspace.run()
        before = {m.id for m in workspace.ledger.memories.list()}
    with open_workspace(distillers=("case", "blame"), retries=1) as workspace:
        report = workspace.distill()
        assert report.output["unproven"] == 1  # of the task that nothing rescued
        new = [m for m in workspace.ledger.memories.list() if m.id not in before]
        assert sorted(m.content for m in new if m.kind != "case") == [
            "blame train-0",
            "blame train-1",
            "blame train-2",
        ]
        assert len([m for m in new if m.kind == "case"]) >= N_TASKS  # what rests on an accepted call stays


def test_without_retries_and_on_held_out_tasks_every_task_is_tried_once(
    open_workspace: Callable[..., agentkd.Workspace],
) -> None:
    with open_workspace() as workspace:
        assert workspace.run().retried == 0
    with open_workspace(retries=3) as workspace:
        assert workspace.run(split="holdout").retried == 0
        assert {t.attempt for t in workspace.trajectories(split="holdout")} == {0}


def test_lessons_that_only_failed_tries_support_are_not_proven() -> None:
    from agentkd.cycle.retry import proven
    from agentkd.schema import Correction, Evidence, Outcome, Task, Trajectory, memory_id

    def tried(task: str, attempt: int, success: bool) -> Trajectory:
        return Trajectory(
            id=f"{task}-{attempt}", run_id="r", task=Task(id=task, prompt="?"), attempt=attempt,
            outcome=Outcome(success=success),
        )  # fmt: skip

    def lesson(*trajectories: str, corrections: tuple[str, ...] = ()) -> Memory:
        return Memory(
            id=memory_id("pitfall", "x", str(trajectories), Scope()), kind="pitfall", when_to_use="x",
            content=str(trajectories), evidence=Evidence(trajectories=trajectories, corrections=corrections),
        )  # fmt: skip

    tries = [
        tried("lost", 0, False), tried("lost", 1000, False), tried("saved", 0, False),
        tried("saved", 1000, True), tried("once", 0, False),
    ]  # fmt: skip
    answered = Correction(
        id="c1", trajectory_id="lost-0", text="x", source="grader", accepted=(ToolCall(name="book"),)
    )
    kept = [
        lesson("saved-0"),
        lesson("once-0"),
        lesson("lost-0", "once-0"),
        lesson("lost-0", corrections=("c1",)),
    ]
    mended = Correction(
        id="c3", trajectory_id="lost-0", text="x", source="tool", accepted=(ToolCall(name="book"),)
    )
    dropped = [
        lesson("lost-0", corrections=("c3",)),
        lesson("lost-0"),
        lesson("lost-0", "lost-1000"),
        lesson("lost-1000", corrections=("c2",)),
    ]
    assert proven([*kept, *dropped], tries, [answered, mended]) == kept


def test_accepted_values_are_masked_in_the_graders_words() -> None:
    from agentkd.cycle.retry import _without_answer
    from agentkd.schema import Outcome, Step, Task, Trajectory

    proposed = ToolCall(name="book", arguments={"row": 7, "side": "left"})
    outcome = Outcome(
        success=False,
        feedback="`side` must be aisle seat, not left; row 12 is wrong; Hold on 7. Accepted: aisle; both",
        expected=(ToolCall(name="hold", arguments={"row": 12, "side": ["aisle seat"], "n": {"x": 7}}),),
        expected_answer="Row 12",
    )
    step = Step(index=0, reply=Message(role="assistant", tool_calls=(proposed,)))
    failed = Trajectory(id="t", run_id="r", task=Task(id="1", prompt="Book"), steps=(step,), outcome=outcome)
    blind = _without_answer(failed).outcome
    assert blind is not None
    assert (blind.expected, blind.expected_answer) == ((), "")
    assert blind.feedback == "`side` must be ..., not left; ... is wrong; ... on 7."
