"""The verdict of a cycle rests on leaks, anchors and held-back losses; `agentkd gate` says the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.cli.gate import _needs
from agentkd.cli.root import run_command_line
from agentkd.cycle import judge, look_number
from agentkd.cycle.evaluation import check_rivals
from agentkd.cycle.journal import open_plan
from agentkd.cycle.phases import promote_phase
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.hf import registered_files
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump
from agentkd.plugins import NoSettings
from agentkd.schema import CycleReport, PhaseReport, Task, ToolCall, Verdict, now
from agentkd.testing import FakeSuite


def judged(folder: Path, **gate: Any) -> Verdict:
    """Judge the candidate of the first cycle again, on the same evaluation."""
    with agentkd.Workspace(folder, settings={"gate": gate}) as workspace:
        report = workspace.report()
        return judge(workspace.parts, report.checkpoint, "base", report.evaluations[0])


def test_a_cycle_judges_with_leaks_anchors_and_the_losses_on_rows_kept_back(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        verdict = workspace.report().verdict
    assert verdict is not None
    assert verdict.numbers["contaminated"] == 0  # the tasks differ in a word from those learnt on
    strict = judged(calm, near_copy=0.05)
    assert strict.numbers["contaminated"] == 12
    assert "contaminated" in strict.flags
    assert verdict.numbers["kl_to_base"] > 0
    assert {"anchor_change", "dev_rise"} <= verdict.numbers.keys()


def learnt_by_heart(folder: Path, student: str) -> None:
    """Let the loss on kept-back rows rise at the end of a training, in its record and in the registry."""
    with agentkd.Workspace(folder) as workspace:
        place, checkpoint = workspace.parts.checkpoint_folder(student), workspace.parts.checkpoint(student)
        with (place / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": 99, "dev_loss": 99.0}) + "\n")
        files = registered_files(place, {})
        named = {name: files[name] for name in checkpoint.files if name != "checkpoint.json"}
        changed = checkpoint.model_copy(update={"files": named})
        (place / "checkpoint.json").write_text(changed.model_dump_json(indent=2) + "\n", encoding="utf-8")
        changed = checkpoint.model_copy(update={"files": registered_files(place, {})})
        table = t.checkpoints
        with workspace.ledger._database.write() as connection:
            connection.execute(table.update().where(table.c.name == student).values(body=dump(changed)))


def test_each_kind_of_evidence_decides_by_its_settings(cycled: Path) -> None:
    open_ = judged(cycled, contamination="off", against=["base"])
    assert open_.numbers["n"] == 12
    assert not {"contaminated", "anchors", "far_from_base", "overtrained"} & {*open_.flags}
    assert "far_from_base" in judged(cycled, max_kl=0.0).flags
    assert "kl_to_base" not in judged(cycled, anchors=False).numbers
    with agentkd.Workspace(cycled) as workspace:
        student = workspace.report().checkpoint
    learnt_by_heart(cycled, student)
    assert "overtrained" in judged(cycled, anchors=False).flags
    assert "overtrained" not in judged(cycled, anchors=False, max_dev_rise=1000.0).flags


def test_the_command_judges_as_the_cycle_did_and_promotes_nothing(
    cycled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agentkd.Workspace(cycled) as workspace:
        before = workspace.report().verdict
    assert before is not None
    assert run_command_line(["-q", "-C", str(cycled), "--json", "gate"]) == 1
    found = Verdict.model_validate_json(capsys.readouterr().out)
    assert (found.flags, found.numbers) == (before.flags, before.numbers)
    assert run_command_line(["-q", "-C", str(cycled), "gate"]) == 1
    assert "would not be promoted (against base)" in capsys.readouterr().out
    assert run_command_line(["-q", "-C", str(cycled), "gate", ""]) == NotFoundError.exit_code
    with agentkd.Workspace(cycled) as workspace:
        assert not workspace.ledger.checkpoints.history()
        workspace.promote(before.checkpoint, force=True)
        with pytest.raises(NotFoundError, match="no candidate to judge"):
            workspace.gate()  # what serves is none
        look = look_number(workspace.parts, "jsonl")
        workspace.gate(before.checkpoint)
        assert look_number(workspace.parts, "jsonl") == look


@pytest.mark.parametrize(
    ("table", "rival"),
    [
        ({"evaluate": {"arms": ["base", "student"]}}, "base + memory"),
        (
            {"evaluate": {"arms": ["base + memory", "student"]}, "gate": {"against": ["base + memory"]}},
            "base",
        ),
        ({"gate": {"against": ["serving"]}}, "serving"),  # nothing serves
        ({"gate": {"against": ["nearest neighbour"]}}, "nearest neighbour"),
    ],
)
def test_a_rival_that_is_not_evaluated_is_refused_before_anything_is_done(
    cycled: Path, table: dict[str, Any], rival: str
) -> None:
    with agentkd.Workspace(cycled, settings=table) as workspace:
        before = workspace.ledger.counts()
        for ask in (workspace.cycle, workspace.gate):
            with pytest.raises(ConfigError, match=rf"compares with `{re.escape(rival)}`, which is not eval"):
                ask()
        assert workspace.ledger.counts() == before


def test_the_baselines_of_a_suite_and_what_serves_are_evaluated_in_any_case(desk: agentkd.Workspace) -> None:
    class Copied:
        name = "copied"

        def answer(self, task: Task) -> tuple[ToolCall, ...]:
            return ()

    class Measured:
        @agentkd.hookimpl
        def components(self) -> Iterator[Any]:
            suite = FakeSuite({"train": [], "holdout": []}, name="measured", baselines=[Copied()])
            yield agentkd.Component("suite", "measured", "One baseline.", lambda *_: suite, NoSettings)

    table = {"cycle": {"suite": "measured"}, "gate": {"against": ["base", "copied", "serving"]}}
    with agentkd.Workspace(desk.root, settings=table, plugins=[Measured()]) as workspace:
        check_rivals(workspace.parts)


def test_nothing_serves_without_the_gates_word_or_force(desk: agentkd.Workspace) -> None:
    known = desk.ledger.checkpoints.serving()
    assert known is not None
    copied = desk.root / "checkpoints" / "student@2"
    shutil.copytree(desk.root / "checkpoints" / known.name, copied)
    desk.ledger.checkpoints.add(known.model_copy(update={"name": copied.name, "status": "candidate"}))
    with pytest.raises(ConfigError, match=r"the gate refuses `student@2` \(.*not_better_than"):
        desk.promote(copied.name)  # it does no better than its twin, which serves
    assert desk.ledger.checkpoints.serving() == known
    desk.rollback()
    assert desk.promote(copied.name) == "base"  # never judged by a cycle: the gate is asked, and agrees
    desk.rollback()
    n_runs = desk.ledger.counts()["trajectories"]
    assert desk.promote(known.name) == "base"  # it has served before
    assert desk.ledger.counts()["trajectories"] == n_runs
    with agentkd.Workspace(desk.root, settings={"cycle": {"suite": ""}}) as lost:
        lost.ledger.checkpoints.add(known.model_copy(update={"name": "student@3", "status": "candidate"}))
        shutil.copytree(copied, desk.root / "checkpoints" / "student@3")
        with pytest.raises(ConfigError, match="no held-out tasks to judge `student@3` on"):
            lost.promote("student@3")


def test_a_candidate_that_a_person_promoted_meanwhile_is_not_marked_as_rejected(
    desk: agentkd.Workspace,
) -> None:
    known = desk.ledger.checkpoints.serving()
    assert known is not None
    judged = PhaseReport(name="evaluate", key="k", output={"checkpoint": known.name, "evaluations": []})
    done = promote_phase(desk.parts, open_plan(desk.parts), [judged])
    assert not done.output["verdict"]["promote"]
    assert desk.ledger.checkpoints.serving() == known


def test_a_candidate_whose_rows_are_gone_is_not_judged_by_the_rest(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        shutil.rmtree(workspace.root / "datasets" / workspace.datasets()[0].id)
    for gate in ({"row_checks": False}, {"contamination": "off"}):
        with pytest.raises(DataError, match=r"train\.jsonl`, which is gone"):
            judged(cycled, **gate)


def test_a_dry_run_says_how_many_tasks_a_gain_needs(calm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["-q", "-C", str(calm), "gate", "--dry-run", "--gain", "0.5"]
    assert run_command_line([*asked, "--json"]) == 0
    needs = json.loads(capsys.readouterr().out)
    assert (needs["look"], needs["tasks"]) == (2, 12)
    assert needs["alpha"] < 0.05 / 4
    assert 12 < needs["tasks_needed"] < 60
    assert needs["power"] < 0.8
    assert run_command_line(asked) == 0
    said = capsys.readouterr().out
    assert f"takes {needs['tasks_needed']} tasks" in said
    assert "`holdout` has 12" in said
    with agentkd.Workspace(calm, settings={"train": {"candidates": ["union", "stacked"]}}) as workspace:
        assert _needs(workspace, 0.5, 0.0, 0.8)["alpha"] == needs["alpha"] / 2


def test_a_candidate_is_one_look_however_often_it_is_judged(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings={"plugins": {"auto": False}}) as workspace:

        def report(checkpoint: str, *, promote: bool = False, suite: str = "s") -> None:
            number = workspace.ledger.cycles.next_number()
            verdict = Verdict(promote=promote, checkpoint=checkpoint, against="base")
            done = CycleReport(id=f"cycle-{number}", number=number, suite=suite, verdict=verdict)
            workspace.ledger.cycles.begin_cycle(done)
            workspace.ledger.cycles.finish_cycle(done)

        def look(candidate: str = "") -> int:
            return look_number(workspace.parts, "s", candidate)

        assert look() == 1
        report("a")
        report("a")
        report("b", suite="other")
        assert (look(), look("a"), look("b")) == (2, 1, 2)
        report("b")
        assert (look("a"), look("c")) == (2, 3)
        report("c", promote=True)
        assert look("d") == 1


def test_a_candidate_judged_by_hand_is_a_look_too(desk: agentkd.Workspace) -> None:
    known = desk.ledger.checkpoints.serving()
    assert known is not None

    def twin(number: int) -> str:
        name = f"student@{number}"
        shutil.copytree(desk.root / "checkpoints" / known.name, desk.root / "checkpoints" / name)
        changes = {"name": name, "status": "candidate", "created_at": now()}
        desk.ledger.checkpoints.add(known.model_copy(update=changes))
        return name

    def looks() -> list[int]:
        return [look_number(desk.parts, "desk", name) for name in (second, third)]

    second, third = twin(2), twin(3)
    assert looks() == [1, 1]  # the cycle promoted
    first, again = desk.gate(second), desk.gate(second)
    assert (first, looks()) == (again, [1, 2])
    with pytest.raises(ConfigError, match=r"the gate refuses `student@3`"):
        desk.promote(third)
    assert desk.gate(third).numbers["alpha"] < first.numbers["alpha"]
    assert look_number(desk.parts, "desk") == 3
    assert look_number(desk.parts, "other") == 1
    assert look_number(desk.parts, "desk", before=1) == 1  # as the cycle that came before saw it
    desk.rollback()
    assert desk.gate(second).promote
    assert look_number(desk.parts, "desk") == 3  # it passed, and serves no one
    desk.promote(second)
    assert look_number(desk.parts, "desk") == 1
    assert not desk.recompute(1).differing
