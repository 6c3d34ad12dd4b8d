"""Evaluators look at the candidate of a cycle; the report shows what they found, and their flags refuse."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest

import agentkd
from agentkd.cli.root import run_command_line
from agentkd.cycle import judge, probe_earlier
from agentkd.cycle.diagnose import comparison_of
from agentkd.cycle.transfer import transfer_matrix
from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd.protocols import Comparison, Kit
from agentkd.schema import CycleReport, Diagnosis, Evaluation, Verdict
from agentkd.testing import check_evaluator

ABLE = "student@9-0000ab1e"
BUILT_IN = ("calibration", "provenance", "difference", "hacking", "ablation", "backdoor", "canary")


def test_a_cycle_asks_the_evaluators_of_its_settings_and_its_report_shows_them(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        report, page = workspace.report(), workspace.report_path().read_text(encoding="utf-8")
    assert [one.evaluator for one in report.evaluations[0].diagnoses] == ["ablation", "hacking"]
    assert report.verdict is not None
    assert report.verdict.numbers["ablation:n"] == 12
    assert "Evaluator <code>ablation</code>" in page


def test_the_verdict_is_an_artefact_with_all_its_numbers(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        report = workspace.report()
        folder = workspace.report_path().parent
    kept = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    assert report.verdict is not None
    assert Verdict.model_validate(kept["verdict"]) == report.verdict
    assert kept["settings"]["margin"] == 0.0
    assert 0 < kept["power"]["gain 0.1"] < kept["power"]["gain 0.3"] < 1
    assert Evaluation.model_validate(kept["evaluations"][0]) == report.evaluations[0]
    assert set(kept["verdict"]["numbers"]) >= {
        "n", "gain:base", "p:base + memory", "without_memory", "kl_to_base", "anchor_change", "parity:peft",
        "unfounded", "refuted", "contaminated",
    }  # fmt: skip
    assert kept["verdict"]["numbers"]["parity:peft"] > 0.999


def test_every_built_in_evaluator_says_something_about_a_real_candidate(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        evaluation = workspace.report().evaluations[0]
        comparison = comparison_of(workspace.parts, "base", evaluation)
        found = {
            name: check_evaluator(workspace.parts.build("evaluator", name), comparison, workspace.parts)
            for name in BUILT_IN
        }
    assert found["calibration"].metrics["n"] == found["ablation"].metrics["n"] == 12
    assert 0 <= found["calibration"].metrics["ece_after"] <= 1
    shares = [found["provenance"].metrics[origin] for origin in ("teacher", "before", "both", "new")]
    assert sum(shares) == pytest.approx(1)
    assert found["difference"].metrics["kl_to_base"] > 0
    assert found["difference"].metrics["kl_to_serving"] == pytest.approx(
        found["difference"].metrics["kl_to_base"], rel=1e-3
    )  # the base serves
    assert found["hacking"].rows


def test_an_evaluator_that_does_not_keep_its_promise_is_told_so(calm: Path) -> None:
    with agentkd.Workspace(calm) as workspace:
        comparison = comparison_of(workspace.parts, "base", workspace.report().evaluations[0])
        with pytest.raises(AssertionError, match="does not say why"):
            check_evaluator(Stern(), comparison, workspace.parts)


class Stern:
    """Flags every candidate whose adapter it finds."""

    name = "stern"

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        assert comparison.before is None
        assert next(comparison.rows("train")).target.content
        assert len(comparison.trajectories("student")) == comparison.evaluation.n
        assert not comparison.trajectories("nobody")
        is_there = (comparison.after / "adapter_model.safetensors").is_file()
        return Diagnosis(evaluator=self.name, metrics={"seen": 1.0}, flags=("bad",) if is_there else ())


def test_what_a_plugin_flags_the_gate_refuses(
    cycled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("stern_plugin")

    @hookimpl
    def components() -> list[Component]:
        return [Component("evaluator", "stern", "Flags.", lambda settings, kit: Stern())]

    module.components = components  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "stern_plugin", module)
    settings = {"plugins": {"modules": ["stern_plugin"]}, "evaluate": {"evaluators": ["stern"]}}
    with agentkd.Workspace(cycled, settings=settings) as workspace:
        evaluation = workspace.evaluate()
        verdict = judge(workspace.parts, evaluation.checkpoint, "base", evaluation)
    assert "stern:bad" in verdict.flags
    assert verdict.numbers["stern:seen"] == 1.0
    assert run_command_line(["-q", "-C", str(cycled), "evaluate", "--evaluator", "ablation"]) == 0
    assert "ablation: Of 12 tasks" in capsys.readouterr().out


def test_an_export_that_cannot_be_made_is_refused(cycled: Path) -> None:
    with agentkd.Workspace(cycled, settings={"gate": {"exports": ["peft"]}}) as workspace:
        report = workspace.report()
        adapter = workspace.parts.checkpoint_folder(report.checkpoint) / "adapter_model.safetensors"
        assert not (workspace.root / "exports.jsonl").exists()  # nothing was handed out
        adapter.write_bytes(adapter.read_bytes()[:-8])
        from agentkd.cycle.export import check_export

        parity = check_export(workspace.parts, report.checkpoint, "peft")
    assert not parity.holds
    assert "adapter_model.safetensors" in parity.said


def test_the_suite_of_a_refused_cycle_is_probed_where_its_rows_are_replayed(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        parts, report = workspace.parts, workspace.report()
        assert report.verdict is not None
        refused = report.verdict.model_copy(update={"promote": False})
        workspace.ledger.cycles.finish_cycle(report.model_copy(update={"verdict": refused}))
        known = parts.checkpoint(report.checkpoint)
        card = workspace.ledger.datasets.get(known.dataset_id)
        union = card.model_copy(update={"id": "dat-union", "settings": {"replayed": [card.id]}})
        workspace.ledger.datasets.add(union, [])
        replaying = known.model_copy(update={"name": ABLE, "dataset_id": union.id, "status": "candidate"})
        workspace.ledger.checkpoints.add(replaying)
        shutil.copytree(parts.checkpoint_folder(known.name), cycled / "checkpoints" / ABLE)

        def probed(candidate: str) -> list[str]:
            found = probe_earlier(parts, candidate, "base", suite="other", splits=("holdout",), seed=0)
            return [f"{each.suite}/{each.split}" for each in found]

        assert probed(known.name) == []
        assert probed(ABLE) == ["jsonl/holdout"]


def test_what_an_earlier_cycle_taught_must_be_kept(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        report = workspace.report()
        assert [cell.cycle for cell in report.transfer[-1].cells] == [1]
        then = report.evaluations[0]
        student = then.arm("student")
        right = tuple(one.model_copy(update={"success": True}) for one in student.results)
        able = student.model_copy(update={"results": right})
        arms = tuple(able if arm.name == "student" else arm for arm in then.arms)
        known = workspace.parts.checkpoint(report.checkpoint)
        workspace.ledger.checkpoints.add(known.model_copy(update={"name": ABLE, "status": "candidate"}))
        workspace.ledger.checkpoints.promote(ABLE)
        taught = CycleReport(
            id="cycle-2", number=2, suite=then.suite, checkpoint=ABLE,
            evaluations=(then.model_copy(update={"arms": arms}),),
            verdict=Verdict(promote=True, checkpoint=ABLE, against="base"),
        )  # fmt: skip
        workspace.ledger.cycles.begin_cycle(taught)
        workspace.ledger.cycles.finish_cycle(taught)
        verdict = judge(workspace.parts, report.checkpoint, "base", then)
        assert "forgot:cycle-2" in verdict.flags
        assert verdict.numbers["transfer:cycle-2"] < -0.5
        workspace.ledger.checkpoints.rollback()
        again = judge(workspace.parts, report.checkpoint, "base", then)
        assert "forgot:cycle-2" not in again.flags  # what was taken back is not to be kept
        matrix = transfer_matrix(workspace.parts, report.checkpoint, 3, report.evaluations, ())
    assert [(row.cycle, [cell.cycle for cell in row.cells]) for row in matrix] == [(1, [1]), (3, [2, 3])]
    from agentkd.evaluate import transfer_table

    table = transfer_table(matrix)
    assert table.columns[2:] == tuple(f"cycle {n}: jsonl/holdout" for n in (1, 2, 3))
    assert "(p 0." in table.rows[1][3]
