"""A whole cycle on the real libraries: real Chroma, real SQLite, real peft, a tiny random student."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import agentkd
from agentkd.cli import main
from agentkd.schema import Scope

NAMES = ["run", "distill", "refine", "compile", "train", "evaluate", "promote", "place", "retire"]


def test_a_cycle_changes_state_in_every_phase(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        report = workspace.report()
        assert [phase.name for phase in report.phases] == NAMES
        assert all(phase.status == "done" for phase in report.phases)
        counts = report.counts
        assert counts["trajectories"] >= 28 + 12 * 3
        assert counts["corrections"] > 0
        assert counts["memories"] > 0
        assert counts["dataset_rows"] > 0
        assert counts["checkpoints"] == 1
        assert report.verdict is not None
        assert {arm.name for arm in report.evaluations[0].arms} >= {
            "base", "base + memory", "student", "student + memory",
        }  # fmt: skip
        assert report.loss_curve
        recalled = workspace.memory.recall("What is the mayor of Lima?", scope=Scope(app="jsonl"))
        assert "mayor" in recalled[0].memory.content


def test_lineage_leads_from_the_checkpoint_to_trajectories_and_back(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        down = workspace.ledger.lineage.down(name)
        kinds = {node.kind for node in down.nodes}
        assert {"checkpoint", "dataset", "memory", "trajectory"} <= kinds
        trajectory = next(node.id for node in down.nodes if node.kind == "trajectory")
        assert name in {node.id for node in workspace.ledger.lineage.up(trajectory).nodes}


def test_held_out_tasks_reach_neither_memories_nor_rows(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        held_out = {t.id for t in workspace.trajectories() if t.task.is_held_out}
        assert held_out
        for memory in workspace.ledger.memories.list():
            assert not held_out & set(memory.evidence.trajectories)
            assert memory.utility.recalls == 0
        dataset = workspace.datasets()[0]
        for row in workspace.ledger.datasets.rows(dataset.id):
            assert not held_out & set(row.provenance.trajectories)
        assert not [c for c in workspace.ledger.corrections.list() if c.trajectory_id in held_out]


def test_the_report_is_a_whole_page_without_outside_resources(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        page = workspace.report_path().read_text(encoding="utf-8")
        report = json.loads((workspace.report_path().parent / "report.json").read_text(encoding="utf-8"))
    assert page.rstrip().endswith("</html>")
    assert "<svg" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "student + memory" in page
    assert report["plugins"]["builtins"] == agentkd.__version__


def test_a_promoted_checkpoint_serves_and_can_be_taken_back(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        workspace.promote(name, force=True)
        assert workspace.model("student").name != workspace.model("base").name
        assert workspace.rollback() == (name, "base")
        assert workspace.ledger.checkpoints.serving() is None


def test_a_checkpoint_is_exported_from_the_command_line(
    cycled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
    out = tmp_path / "student"
    assert main(["-C", str(cycled), "--json", "checkpoints", "export", name, str(out), "--as", "merged"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["parity"][0]["agreement"] >= said["parity"][0]["bar"] == 0.999
    assert (out / "model.safetensors").is_file()
    assert main(["-C", str(cycled), "checkpoints", "export", name, str(out)]) != 0  # never overwritten


def test_a_second_cycle_takes_a_new_number_and_learns_from_all(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        report = workspace.cycle()
        assert report.number == 2
        assert report.phases[0].name == "run"


def test_the_hooks_of_a_cycle_are_heard_and_may_veto(new_workspace: Callable[[str], Path]) -> None:
    heard: list[str] = []

    class Listener:
        @agentkd.hookimpl
        def after_phase(self, report):  # type: ignore[no-untyped-def]
            heard.append(report.name)

        @agentkd.hookimpl
        def after_cycle(self, report):  # type: ignore[no-untyped-def]
            heard.append(report.id)

        @agentkd.hookimpl
        def is_compile_due(self, n_new_memories):  # type: ignore[no-untyped-def]
            heard.append(f"{n_new_memories} memories")
            return False

    with agentkd.Workspace(new_workspace("hooks"), plugins=[Listener()]) as workspace:
        report = workspace.cycle()
    assert report.verdict is None
    assert heard[:3] == ["run", "distill", "refine"]
    assert heard[3].endswith("memories")
    assert heard[4:] == ["cycle-1"]
