"""Ledgers and values for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentkd.ledger import Ledger
from agentkd.schema import (
    Checkpoint,
    Correction,
    DatasetCard,
    Evaluation,
    Evidence,
    Example,
    Hit,
    Memory,
    Message,
    Outcome,
    Provenance,
    Rendered,
    Scope,
    Step,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    memory_id,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


class Make:
    """Makes small valid values."""

    def trajectory(self, number: int, *, success: bool | None = True, **changes: Any) -> Trajectory:
        task = Task(
            id=f"task-{number}", suite="shop", split=changes.pop("split", "train"), prompt="Where is it?"
        )
        values: dict[str, Any] = {
            "id": f"trj-{number}",
            "run_id": "run-1",
            "task": task,
            "messages": (Message(role="user", content="Where is it?"),),
            "steps": tuple(self.step(i) for i in range(2)),
            "answer": "On its way.",
            "outcome": None if success is None else Outcome(success=success, reward=float(success)),
            "created_at": START + timedelta(seconds=number),
        }
        return Trajectory(**{**values, **changes})

    def step(self, index: int, text: str = "I look it up.", **changes: Any) -> Step:
        reply = Message(role="assistant", content=text, origin="model")
        return Step(index=index, reply=reply, results=(ToolResult(content="found"),), **changes)

    def memory(self, text: str, *trajectories: str, scope: Scope | None = None, **changes: Any) -> Memory:
        scope = scope or Scope(app="shop")
        values: dict[str, Any] = {
            "id": memory_id("insight", "when asked", text, scope),
            "kind": "insight",
            "when_to_use": "when asked",
            "content": text,
            "scope": scope,
            "evidence": Evidence(trajectories=trajectories),
            "support": max(1, len(trajectories)),
            "status": "active",
            "origin": "success",
            "created_at": START,
        }
        return Memory(**{**values, **changes})

    def correction(
        self, number: int, trajectory_id: str, text: str = "Ask for the e-mail first."
    ) -> Correction:
        call = ToolCall(name="find_order", arguments={"email": "ada@example.org"})
        return Correction(
            id=f"cor-{number}", trajectory_id=trajectory_id, text=text, source="grader", accepted=(call,),
            created_at=START + timedelta(seconds=number),
        )  # fmt: skip

    def example(self, number: int, task_id: str = "task-1", **provenance: tuple[str, ...]) -> Example:
        return Example(
            id=f"ex-{number}", kind="trajectory", task_id=task_id,
            student_view=(Message(role="user", content="Where is it?"),),
            target=Message(role="assistant", content="On its way."),
            student=Rendered(ids=(1, 2), weights=(0.0, 1.0)), provenance=Provenance(**provenance),
        )  # fmt: skip

    def card(self, id_: str = "ds-1") -> DatasetCard:
        return DatasetCard(id=id_, n_train=1, n_dev=0, n_label_tokens=1, n_tokens=2, created_at=START)

    def checkpoint(self, number: int, dataset_id: str = "ds-1", parent: str = "") -> Checkpoint:
        return Checkpoint(
            name=f"student@{number}-{number:08x}", base="path:base", base_id="b", dataset_id=dataset_id,
            parent=parent,
        )  # fmt: skip

    def evaluation(self, id_: str = "evl-1", checkpoint: str = "") -> Evaluation:
        return Evaluation(id=id_, suite="shop", split="holdout", n=1, checkpoint=checkpoint)

    def hit(self, memory: Memory, score: float = 0.8) -> Hit:
        return Hit(memory=memory, score=score)

    def whole_loop(self, ledger: Ledger) -> Memory:
        """Fill a ledger with one of everything and return the memory that was compiled."""
        ledger.trajectories.begin(self.trajectory(1, success=None, steps=()))
        ledger.trajectories.add_step("trj-1", self.step(0))
        ledger.trajectories.finish(self.trajectory(1))
        ledger.corrections.add(self.correction(1, "trj-1"))
        evidence = Evidence(trajectories=("trj-1",), corrections=("cor-1",))
        memory = self.memory("look it up", "trj-1", evidence=evidence)
        ledger.memories.admit([memory])
        ledger.trajectories.begin(self.trajectory(2, success=None, steps=()))
        ledger.memories.record_recall("trj-2", 0, [self.hit(memory)])
        ledger.trajectories.finish(self.trajectory(2))
        row = self.example(1, memories=(memory.id,), trajectories=("trj-2",), corrections=("cor-1",))
        ledger.datasets.add(self.card(), [row])
        ledger.checkpoints.add(self.checkpoint(1))
        ledger.evaluations.add(self.evaluation(checkpoint=self.checkpoint(1).name))
        ledger.checkpoints.promote(self.checkpoint(1).name)
        return memory


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A ledger in memory; what needs a file opens `path`."""
    with Ledger.open("sqlite://") as opened:
        yield opened
