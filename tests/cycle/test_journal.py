"""What is done is not done again; a changed setting costs only the phases that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import agentkd
from agentkd.errors import PluginError


class Breaks:
    """A plugin that stops the cycle right after one of its phases."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    @agentkd.hookimpl
    def after_phase(self, report):  # type: ignore[no-untyped-def]
        if report.name == self.phase:
            raise RuntimeError("stop here")


def test_a_cut_off_cycle_goes_on_and_redoes_only_what_reads_a_changed_setting(
    new_workspace: Callable[[str], Path],
) -> None:
    folder = new_workspace("cut")
    with (
        agentkd.Workspace(folder, plugins=[Breaks("train")]) as workspace,
        pytest.raises(PluginError, match="Breaks"),
    ):
        workspace.cycle()
    with agentkd.Workspace(folder, settings={"gate": {"min_tasks": 1000}}) as workspace:
        n_runs = workspace.ledger.counts()["trajectories"]
        trained = workspace.checkpoints()
        report = workspace.cycle()
        assert report.number == 1
        assert workspace.checkpoints()[0].name == trained[0].name
        assert workspace.ledger.counts()["trajectories"] == n_runs + 4 * 12
        assert report.verdict is not None
        assert "min_tasks" in report.verdict.flags


def test_a_cycle_for_another_split_gives_the_unfinished_one_up(new_workspace: Callable[[str], Path]) -> None:
    folder = new_workspace("other")
    with (
        agentkd.Workspace(folder, plugins=[Breaks("run")]) as workspace,
        pytest.raises(PluginError),
    ):
        workspace.cycle()
    with agentkd.Workspace(folder, settings={"cycle": {"n": 10}}) as workspace:
        assert workspace.cycle().number == 2


def test_teacher_signals_reach_the_training_of_a_cycle(new_workspace: Callable[[str], Path]) -> None:
    settings = {
        "train": {"objective": {"sft": {"weight": 0.5}, "self-context": {"top_k": 8}}},
        "compile": {"memory_share": 0.5},
    }
    with agentkd.Workspace(new_workspace("teacher"), settings=settings) as workspace:
        report = workspace.cycle()
        metrics = workspace.root / "checkpoints" / report.checkpoint / "metrics.jsonl"
        assert '"self-context"' in metrics.read_text(encoding="utf-8")
        assert list((workspace.root / "signals").iterdir())
