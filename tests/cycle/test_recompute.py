"""Every figure of a report is computed again from the ledger, and a changed fact is seen."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import agentkd
from agentkd.cli import main
from agentkd.cycle.recompute import _compared
from agentkd.cycle.transfer import kept_cells
from agentkd.schema import Outcome, Trajectory


def test_an_untouched_report_is_borne_out_and_prints_its_command(
    calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agentkd.Workspace(calm) as workspace:
        page = workspace.report_path().read_text(encoding="utf-8")
    assert main(["-C", str(calm), "report"]) == 0
    printed = next(line for line in capsys.readouterr().out.splitlines() if "--recompute" in line)
    command = shlex.split(printed.partition("agentkd ")[2])
    assert f"agentkd {' '.join(command)}" in page
    assert main(["-C", str(calm), "--json", *command]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["differing"] == []
    assert {"phases", "evaluations", "verdict", "corrections", "counts", "loss_curve"} <= done[
        "sections"
    ].keys()
    assert done["n"] > 300


def test_later_work_does_not_change_what_was_so(desk: agentkd.Workspace) -> None:
    run = next(t for t in desk.trajectories() if not t.task.is_held_out)
    desk.correct(run, "Another way.")
    desk.ledger.trajectories.finish(
        Trajectory(id="later", run_id="later", task=run.task, outcome=Outcome(success=True))
    )
    desk.rollback()
    assert desk.recompute().differing == ()


def test_a_cycle_and_a_roll_back_afterwards_change_no_earlier_report(desk: agentkd.Workspace) -> None:
    second = desk.cycle()
    assert second.verdict is not None
    assert "transfer:cycle-1" in second.verdict.numbers
    assert desk.recompute(1).differing == ()
    desk.rollback()
    assert desk.recompute(2).differing == ()
    first = desk.report(1).checkpoint
    assert desk.ledger.checkpoints.withdrawn() == {first}
    assert kept_cells(desk.parts, second.transfer[-1].cells) == second.transfer[-1].cells[1:]  # from now on


def test_a_changed_outcome_is_seen_in_arms_comparisons_and_verdict(desk: agentkd.Workspace) -> None:
    student = desk.report().evaluations[0].arm("student")
    run = desk.trajectories(run_id=student.run_id)[0]
    desk.ledger.trajectories.grade(run.id, Outcome(success=False))
    names = {figure.name for figure in desk.recompute().differing}
    assert "evaluations.0.arms.2.success.value" in names
    assert any(name.startswith("evaluations.0.paired.0.difference") for name in names)
    assert "verdict.numbers.gain:base" in names
    assert main(["-C", str(desk.root), "report", "--help"]) == 0


def test_the_noise_of_a_forward_pass_is_no_difference() -> None:
    def differing(name: str, one: float, other: float) -> bool:
        return not all(is_same for _, is_same in _compared("verdict.numbers", {name: one}, {name: other}))

    assert not differing("anchor_change", -0.021512737, -0.021512625)  # of two threads, and of one
    assert differing("anchor_change", -0.0215, -0.0216)
    assert not differing("kl_to_base", 0.029000, 0.029004)
    assert differing("p:base", 1.2e-6, 2.2e-6)


def test_a_report_that_was_edited_is_seen(desk: agentkd.Workspace) -> None:
    file = desk.report_path().with_name("report.json")
    report = json.loads(file.read_text(encoding="utf-8"))
    report["counts"]["memories"] += 1
    report["phases"][-1]["output"]["retired"] += 1
    report["loss_curve"][0][1] += 0.5
    file.write_text(json.dumps(report), encoding="utf-8")
    names = {figure.name for figure in desk.recompute().differing}
    assert {"counts.memories", "phases.retire.output.retired", "phases.retire.retired"} <= names
    assert "loss_curve.0.1" in names
