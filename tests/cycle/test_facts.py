"""A student that reads its facts is evaluated with them, and with nothing that its rows taught."""

from __future__ import annotations

from pathlib import Path

import agentkd
from agentkd.cycle.diagnose import comparison_of
from agentkd.cycle.evaluation import evaluate_stage
from agentkd.cycle.retire import held_memories
from agentkd.cycle.stage import train_stage
from agentkd.schema import Evaluation, Evidence, Memory, MemoryKeys, Scope
from agentkd.schema.memory import memory_id

ARMS = ("base", "student", "student + memory")


def fact(workspace: agentkd.Workspace) -> Memory:
    """Return a fact about the requests of the small world, which any of them recalls."""
    task = workspace.parts.suite("jsonl").tasks("holdout")[0]
    scope = Scope(app="jsonl")
    return Memory(
        id=memory_id("fact", task.prompt, "the desk is open", scope), kind="fact", when_to_use=task.prompt,
        content="the desk is open", keys=MemoryKeys(situation=task.prompt), scope=scope,
        evidence=Evidence(), support=3, origin="test",
    )  # fmt: skip


def evaluated(workspace: agentkd.Workspace, checkpoint: str) -> Evaluation:
    """Evaluate a checkpoint on the held-out tasks."""
    parts = workspace.parts
    return evaluate_stage(
        parts, suite=parts.suite("jsonl"), split="holdout", n=4, seed=0, candidate=checkpoint, serving="base",
        arms=ARMS,
    )  # fmt: skip


def test_a_student_that_reads_facts_is_judged_as_it_will_serve(cycled: Path) -> None:
    reading = {"compile": {"show_facts": True}}
    with agentkd.Workspace(cycled, settings=reading) as workspace:
        parts = workspace.parts
        (answer,) = workspace.memory.admit([fact(workspace)])
        assert answer.outcome == "stored"
        card = workspace.compile()
        train_stage(parts, card.id, "student@9-reader")
        taught = {memory.id for memory in held_memories(parts, "student@9-reader")}
        assert taught

        evaluation = evaluated(workspace, "student@9-reader")
        arm = evaluation.arm("student")
        assert arm.uses_memory
        assert arm.title == "student + facts"
        runs = comparison_of(parts, "base", evaluation).trajectories("student")
        assert len(runs) == 4
        recalled = {id_ for run in runs for id_ in run.recalled}
        assert answer.memory_id in recalled
        assert not recalled & taught
        everything = comparison_of(parts, "base", evaluation).trajectories("student + memory")
        assert {id_ for run in everything for id_ in run.recalled} & taught
        assert not evaluation.arm("base").uses_memory


def test_a_student_that_reads_none_is_judged_without_memory(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        workspace.memory.admit([fact(workspace)])
        evaluation = evaluated(workspace, workspace.checkpoints()[0].name)
        assert not evaluation.arm("student").uses_memory
        assert evaluation.arm("student").title == "student"
        runs = comparison_of(workspace.parts, "base", evaluation).trajectories("student")
        assert len(runs) == 4
        assert not [run for run in runs if run.recalled]
