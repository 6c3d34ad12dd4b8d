"""What a stranger would try: odd names, second processes, taken-back students, changed minds."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agentkd
from agentkd.agents import Approve, open_checkpointer
from agentkd.cli.root import run_command_line
from agentkd.cycle.evaluation import run_key
from agentkd.cycle.html import render_html
from agentkd.errors import ConfigError, LockedError, NotFoundError, PluginError
from agentkd.ledger.calibration import Calibration
from agentkd.plugins import NoSettings
from agentkd.schema import CycleReport, PhaseReport, Task, ToolCall, Verdict
from agentkd.testing import ScriptedModel

from .desk import SETTINGS as DESK
from .desk import Plugin as Desk

NewWorkspace = Callable[[str], Path]
KEY = "sk-abcdefghijklmnop1234"


class Never:
    """A plugin that never lets a cycle compile: what comes before is cheap."""

    @agentkd.hookimpl
    def is_compile_due(self) -> bool:
        return False


def test_no_name_or_reason_becomes_markup_in_a_report() -> None:
    evil = "<script>alert(`1`)</script>"
    page = render_html(
        CycleReport(
            id=evil, number=1, suite=evil, serving=evil, checkpoint=evil, plugins={evil: evil},
            phases=(PhaseReport(name=evil, key="k", status="done", summary=evil),),
            verdict=Verdict(promote=False, checkpoint=evil, against=evil, reasons=(evil,)),
            versions={evil: evil}, machine={evil: evil}, counts={evil: 1},
        )
    )  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_init_quotes_what_it_writes(tmp_path: Path) -> None:
    suite = 'a"b\\c\nd = "é"'
    with agentkd.Workspace.create(tmp_path, suite=suite) as workspace:
        assert workspace.settings.cycle.suite == suite
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"also": ["holdouts"]},
        {"also": ["train"]},
        {"split": "nowhere"},
        {"split": "train"},
        {"arms": ["base"]},
        {"arms": ["student", "base + notes"]},
    ],
)
def test_a_cycle_refuses_arms_and_splits_before_it_does_anything(
    new_workspace: NewWorkspace, wrong: dict[str, Any]
) -> None:
    with agentkd.Workspace(new_workspace("wrong"), settings={"evaluate": wrong}) as workspace:
        with pytest.raises(ConfigError):
            workspace.cycle()
        assert workspace.ledger.cycles.list() == []


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"suite": {"jsnol": {"path": "x"}}}, "jsonl"),
        ({"trainer": {"lora": {"thread": 1}}}, "threads"),
        ({"train": {"objective": {"sfd": {}}}}, "sft"),
        ({"train": {"objective": {"self-context": {"topk": 4}}}}, "top_k"),
    ],
)
def test_a_table_that_nothing_would_read_is_refused_at_once(
    tmp_path: Path, wrong: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        agentkd.Workspace(tmp_path, settings=wrong)


def test_a_second_cycle_at_the_same_time_is_refused_in_one_line_and_changes_nothing(
    new_workspace: NewWorkspace, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = new_workspace("shared")
    with agentkd.Workspace(folder) as owner:
        assert owner.memory.recall("anything") == []
        with agentkd.Workspace(folder) as other, pytest.raises(LockedError, match="this process"):
            other.cycle()
        assert run_command_line(["-q", "-C", str(folder), "cycle"]) == LockedError.exit_code
        assert owner.ledger.cycles.list() == []
    said = capfd.readouterr().err.strip()
    assert said.startswith("error: the index")
    assert "\n" not in said


def test_a_dataset_is_named_by_the_ledger_not_by_a_path(new_workspace: NewWorkspace) -> None:
    with agentkd.Workspace(new_workspace("paths")) as workspace:
        with pytest.raises(NotFoundError, match="no dataset"):
            workspace.train("../../elsewhere")


def test_the_error_of_a_failed_phase_is_stored_without_its_secret(new_workspace: NewWorkspace) -> None:
    with agentkd.Workspace(new_workspace("secret")) as workspace:
        failed = PhaseReport(name="run", key="k", status="failed", summary=f"wrong key {KEY}")
        workspace.ledger.cycles.phase_done(failed, "cycle-1")
        assert KEY not in workspace.ledger.cycles.phases("cycle-1")[0].summary


def test_a_correction_that_came_after_a_cycle_is_distilled_by_the_next(cycled: Path) -> None:
    settings = {"cycle": {"suite": ""}}
    with agentkd.Workspace(cycled, settings=settings, plugins=[Never()]) as workspace:
        before = workspace.cycle().phases[1].output["corrections"]
        trained = next(t for t in workspace.trajectories() if not t.task.is_held_out)
        workspace.correct(trained, "Ask for the country too.")
        assert workspace.cycle().phases[1].output["corrections"] == before + 1


def test_a_student_that_was_rolled_back_is_not_promoted_again_by_the_same_work(cycled: Path) -> None:
    with agentkd.Workspace(cycled, settings={"cycle": {"min_new_memories": 0}}) as workspace:
        name = workspace.cycle().checkpoint
        workspace.promote(name, force=True)
        workspace.rollback()
        report = workspace.cycle()
        assert report.checkpoint == name
        assert report.verdict is not None
        assert "rolled back" in report.verdict.reasons[0]
        assert report.serving == "base"


def test_a_candidate_does_not_replace_what_it_was_not_compared_with(
    new_workspace: NewWorkspace,
) -> None:
    class Promoter:
        @agentkd.hookimpl
        def after_phase(self, report: PhaseReport) -> None:
            if report.name == "evaluate":
                known, other = workspace.checkpoints()[0], workspace.root / "checkpoints" / "student@9"
                shutil.copytree(workspace.root / "checkpoints" / known.name, other)
                workspace.ledger.checkpoints.add(known.model_copy(update={"name": "student@9"}))
                workspace.promote("student@9", force=True)

    folder = new_workspace("meanwhile")
    with agentkd.Workspace(folder, settings=DESK, plugins=[Desk(), Promoter()]) as workspace:
        report = workspace.cycle()
        assert report.verdict is not None
        assert not report.verdict.promote
        assert "not compared with `student@9`" in report.verdict.reasons[0]
        assert report.serving == "student@9"
        assert workspace.ledger.checkpoints.serving() is not None
        known = {checkpoint.name: checkpoint.status for checkpoint in workspace.checkpoints()}
        assert known[report.checkpoint] == "candidate"  # it may still be judged and serve


def test_a_candidate_whose_memory_is_revoked_meanwhile_is_refused_and_stays_tainted(cycled: Path) -> None:
    class Revoker:
        @agentkd.hookimpl
        def after_phase(self, report: PhaseReport) -> None:
            if report.name == "evaluate":
                row = workspace.ledger.datasets.rows(workspace.datasets()[-1].id)[0]
                workspace.memory.revoke(row.provenance.memories[0], "it is wrong")

    settings = {"train": {"epochs": 1.0}}
    with agentkd.Workspace(cycled, settings=settings, plugins=[Revoker()]) as workspace:
        report = workspace.cycle()
        assert report.verdict is not None
        assert "revoked" in report.verdict.reasons[0]
        assert workspace.parts.checkpoint(report.checkpoint).status == "tainted"


def test_other_sampling_or_other_tasks_under_old_ids_are_another_run(new_workspace: NewWorkspace) -> None:
    def key(task: Task, **models: Any) -> str:
        with agentkd.Workspace(folder, settings={"models": models}) as workspace:
            return run_key(workspace.parts, "evaluate", "jsonl", [task], "openai/x", False, 0)

    folder, task = new_workspace("keys"), Task(id="a", prompt="2 + 2?")
    assert key(task) == key(task, retries=9)
    assert len({key(task), key(task, temperature=0.5), key(Task(id="a", prompt="3 + 3?"))}) == 3


def test_a_calibration_makes_another_run_of_one_with_memory(new_workspace: NewWorkspace) -> None:
    def key(uses_memory: bool) -> str:
        return run_key(workspace.parts, "evaluate", "jsonl", [task], "openai/x", uses_memory, 0)

    task = Task(id="a", prompt="2 + 2?")
    with agentkd.Workspace(new_workspace("calibrated")) as workspace:
        before = key(True), key(False)
        measured = Calibration(
            fingerprint=workspace.parts.embedder().fingerprint, min_score=0.3, min_words=0.4,
            related_above=0.7, merge_above=0.8,
        )  # fmt: skip
        workspace.ledger.calibrations.put(measured)
        assert key(True) != before[0]
        assert key(False) == before[1]


def test_a_model_component_of_a_plugin_plays_a_role_by_its_name(tmp_path: Path) -> None:
    class Plugin:
        @agentkd.hookimpl
        def components(self) -> Iterable[Any]:
            yield agentkd.Component(
                "model", "parrot", "Repeats.", lambda settings, kit: ScriptedModel(["hi"], name="parrot"),
                NoSettings,
            )  # fmt: skip

    settings = {"roles": {"actor": "parrot"}}
    with agentkd.Workspace(tmp_path, settings=settings, plugins=[Plugin()]) as workspace:
        assert workspace.model("actor").reply([]).text == "hi"


def test_training_is_told_which_plugin_offers_an_objective(tmp_path: Path) -> None:
    def components() -> Iterable[Any]:
        yield agentkd.Component("objective", "mine", "A loss.", lambda settings, kit: None, NoSettings)

    module = ModuleType("my_losses")
    module.components = agentkd.hookimpl(components)  # type: ignore[attr-defined]
    with agentkd.Workspace(tmp_path, plugins=[module]) as workspace:
        assert workspace.parts.plugin_modules("objective", ["sft", "mine"]) == ("my_losses",)


def test_a_plugin_that_breaks_while_it_offers_skills_is_named(tmp_path: Path) -> None:
    class Broken:
        @agentkd.hookimpl
        def skills(self) -> Iterable[Path]:
            yield tmp_path
            raise RuntimeError("no more")

    with agentkd.Workspace(tmp_path / "w", plugins=[Broken()]) as workspace:
        with pytest.raises(PluginError, match="Broken"):
            workspace.parts.skills()


def test_a_run_that_waits_for_a_person_outlives_its_process_in_a_private_file(tmp_path: Path) -> None:
    def pay(amount: int) -> str:
        """Pay an amount."""
        return f"paid {amount}"

    def new_agent(workspace: agentkd.Workspace, model: ScriptedModel) -> Any:
        saver = open_checkpointer(tmp_path / "waiting.db")
        return workspace.agent([pay], model=model, recall=False, interrupt_on=["pay"], checkpointer=saver)

    with agentkd.Workspace(tmp_path / "w") as workspace:
        call = ToolCall(name="pay", arguments={"amount": 3})
        paused = new_agent(workspace, ScriptedModel([call])).run("Pay 3.", thread_id="t")
    assert stat.S_IMODE((tmp_path / "waiting.db").stat().st_mode) == 0o600
    with agentkd.Workspace(tmp_path / "w") as workspace:
        done = new_agent(workspace, ScriptedModel(["Done."])).resume(paused.thread_id, Approve())
    assert done.answer == "Done."
    assert done.steps[0].results[0].content == "paid 3"


def test_a_death_between_a_file_and_its_fact_costs_nothing(
    calm: Path, new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are renamed into place before the ledger knows them: the same command then finds them there."""
    folder = new_workspace("deaths")
    for part, method in (("datasets", "add"), ("checkpoints", "add"), ("checkpoints", "set_status")):
        with agentkd.Workspace(folder) as workspace, monkeypatch.context() as patched:
            patched.setattr(getattr(workspace.ledger, part), method, _die)
            with pytest.raises(KeyboardInterrupt):
                workspace.cycle()
    with agentkd.Workspace(folder) as workspace, agentkd.Workspace(calm) as undisturbed:
        report = workspace.cycle()
        assert report.number == 1
        assert report.checkpoint == undisturbed.report().checkpoint
        assert workspace.ledger.counts() == undisturbed.ledger.counts()
    assert len(list((folder / "checkpoints").iterdir())) == 1


def _die(*arguments: object, **keywords: object) -> None:
    raise KeyboardInterrupt
