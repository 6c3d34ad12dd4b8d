"""When a cycle is due, what it may take, and that what is done before a ceiling is kept."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

import agentkd
from agentkd.cli.root import run_command_line
from agentkd.cycle.ceiling import Ceiling
from agentkd.cycle.schedule import _spent, is_due
from agentkd.errors import BudgetError, CeilingError, ConfigError, LockedError, ModelError, StoreError
from agentkd.hf import file_sha256
from agentkd.ledger import Ledger
from agentkd.models.booking import Meter
from agentkd.models.gguf import ModelFiles
from agentkd.protocols import SilentProgress
from agentkd.schema import (
    ADHOC,
    ASSESS_SPLIT,
    SYNTHETIC_SPLIT,
    CycleReport,
    Evidence,
    Memory,
    Message,
    PhaseReport,
    Scope,
    Task,
    Trajectory,
    Usage,
    Utility,
    Verdict,
    content_id,
    memory_id,
    now,
)
from agentkd.workspace.watching import watch

NewWorkspace = Callable[[str], Path]


def lesson(number: int, **changes: Any) -> Memory:
    when, content = f"situation {number}", f"lesson {number} " + "with many words " * 20
    memory = Memory(
        id=memory_id("insight", when, content, Scope()),
        kind="insight",
        when_to_use=when,
        content=content,
        status="active",
    )
    return memory.model_copy(update=changes)


def asked(folder: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code of `agentkd cycle --if-due` and what it printed."""
    code = run_command_line(["-C", str(folder), "cycle", "--if-due", *options])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_cycle_is_due_by_counts_and_says_so(cycled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = asked(cycled, capsys=capsys)
    assert code == 12
    assert said.startswith("not due: 0 of 8 new memories, ")
    with agentkd.Workspace(cycled) as workspace:
        workspace.ledger.memories.admit([lesson(number) for number in range(8)])
        due = workspace.when_due()
        assert (due.is_due, due.learnt.n_new_memories) == (True, 8)
        facts = {"compile": {"min_support": 2}}
    with agentkd.Workspace(cycled, settings=facts) as strict:
        assert strict.when_due().learnt.n_new_memories == 0  # none of them may be compiled


def test_what_the_cycle_would_not_distil_makes_none_due_and_a_look_at_the_rest_settles_it(
    desk: agentkd.Workspace,
) -> None:
    def lived(name: str, suite: str, split: str = "train") -> None:
        task = Task(id=name, suite=suite, split=split, prompt="Hello!")
        run = Trajectory(id=content_id("trj", name, suite, split), run_id="app", task=task, model="m")
        desk.ledger.trajectories.finish(run)

    def n_new() -> int:
        return desk.when_due().learnt.n_new_trajectories

    few = desk.settings.cycle.model_copy(update={"due_trajectories": 3})
    desk.parts.settings = desk.settings.model_copy(update={"cycle": few})
    for number in range(4):
        lived(f"app-{number}", ADHOC)
    lived("exam", "desk", ASSESS_SPLIT)
    assert (n_new(), desk.when_due().is_due) == (0, False)
    for number in range(3):
        lived(f"train-{number}", "desk")
    assert (n_new(), desk.when_due().is_due) == (3, True)
    assert desk.cycle_if_due() is not None
    assert (n_new(), desk.cycle_if_due()) == (0, None)
    every = few.model_copy(update={"suite": ""})
    desk.parts.settings = desk.settings.model_copy(update={"cycle": every})
    lived("later", ADHOC)
    lived("written", "desk", SYNTHETIC_SPLIT)
    assert n_new() == 4 + 1  # no cycle has distilled what an application did


def store(
    workspace: agentkd.Workspace,
    number: int,
    *phases: PhaseReport,
    suite: str = "jsonl",
    status: Literal["done", "failed"] = "done",
) -> None:
    """Write down a cycle with phases that were begun at their time, and its plan."""
    cycles, base_id = workspace.ledger.cycles, workspace.parts.student_files.base_id
    report = CycleReport(id=f"cycle-{number}", number=number, suite=suite, phases=phases)
    planned = {"suite": suite, "base_id": base_id, "revoked": workspace.ledger.revocations.mark()}
    plan = PhaseReport(name="plan", key=f"plan-{number}", status="done", output=planned)
    cycles.begin_cycle(report)
    for phase in (plan, *phases):
        cycles.phase_done(phase, report.id)
    cycles.finish_cycle(report, status)


def test_what_another_suite_learns_makes_no_cycle_of_this_one_due_nor_needless(cycled: Path) -> None:
    def admit(first: int, **changes: Any) -> None:
        workspace.ledger.memories.admit([lesson(n, **changes) for n in range(first, first + 8)])

    with agentkd.Workspace(cycled) as workspace:
        for name, suite in (("ours", "jsonl"), ("theirs", "other")):
            task = Task(id=name, suite=suite, split="train", prompt="Hello!")
            workspace.ledger.trajectories.finish(Trajectory(id=name, run_id="app", task=task, model="m"))
        admit(0, scope=Scope(app="jsonl"))
        admit(10, scope=Scope(app="other"))
        admit(20, evidence=Evidence(trajectories=("theirs",)))
        phases = [PhaseReport(name=n, key=n, status="done") for n in ("run", "distill", "compile")]
        store(workspace, 2, *phases, suite="other")
        learnt = workspace.when_due().learnt
        assert (learnt.n_new_memories, learnt.n_new_trajectories) == (8, 1)
    for suite, why in (("other", "0 of 8 new memories"), ("third", "no cycle has run on `third` yet")):
        with agentkd.Workspace(cycled, settings={"cycle": {"suite": suite}}) as workspace:
            assert workspace.when_due().reason.startswith(why)
    with agentkd.Workspace(cycled, settings={"cycle": {"suite": ""}}) as workspace:
        learnt = workspace.when_due().learnt  # each as its own suite's cycle saw it
        assert (learnt.n_new_memories, learnt.n_new_trajectories) == (8, 1)


def test_a_tainted_student_that_serves_is_replaced_by_schedule_once(
    cycled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def run(parts: Any, *, recompile: bool = False) -> CycleReport:
        asked.append(recompile)
        return CycleReport(id="cycle-2", number=2, suite="jsonl")

    monkeypatch.setattr("agentkd.cycle.run_cycle", run)
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        workspace.promote(name, force=True)
        assert not workspace.when_due().is_due
        taught = workspace.lineage(name)["down"].ids("memory")[0]
        workspace.revoke(taught, reason="the policy changed")
        due = workspace.when_due()
        assert due.reason == f"`{name}` serves and is tainted: one is trained without what was revoked"
        assert due.recompiles
        assert is_due(workspace.parts)  # of an ordinary cycle too
        assert workspace.cycle_if_due() is not None
        assert asked == [True]
        store(workspace, 2, PhaseReport(name="compile", key="again", status="done"))
        assert not workspace.when_due().is_due  # the gate refused that one
        assert not is_due(workspace.parts)
        workspace.revoke(workspace.lineage(name)["down"].ids("memory")[1], reason="that one too")
        assert workspace.when_due().recompiles


def test_on_an_upgraded_base_all_is_new_and_nothing_is_retired(cycled: Path) -> None:
    helps = Utility(recalls=20, wins=20, held_out=10, held_out_wins=0)
    with agentkd.Workspace(cycled) as workspace:
        name = workspace.checkpoints()[0].name
        workspace.promote(name, force=True)
        strong = lesson(0, utility=helps)
        workspace.ledger.memories.admit([strong])
        for run in workspace.trajectories(split="train"):
            workspace.ledger.trials.record(run.id, "shown", Scope())
            assert run.outcome is not None
            workspace.ledger.trajectories.grade(run.id, run.outcome)
        workspace.ledger.memories.set_status(strong.id, "retired", "", checkpoint=name)
        learnt = workspace.when_due().learnt
        assert (learnt.n_new_memories, learnt.expected_gain) == (1, 0.0)
        files = workspace.parts.student_files
        workspace.parts.student_files = ModelFiles(path=files.path, base_id="new", source=files.source)
        due = workspace.when_due()
        assert due.learnt.n_new_memories > 8
        assert due.learnt.expected_gain > 20
        assert due.is_due


def test_only_what_may_be_compiled_and_is_new_lets_a_cycle_go_on_to_compile(cycled: Path) -> None:
    lived = {"cycle": {"suite": ""}}  # no run: all is distilled again, without new evidence
    with agentkd.Workspace(cycled, settings=lived) as workspace:
        facts = [lesson(number).model_copy(update={"kind": "fact"}) for number in range(9)]
        waiting = lesson(9, status="candidate")
        workspace.ledger.memories.admit([*facts, waiting])
        report = workspace.cycle()
        assert report.phases[1].output["merged"] > 8
        assert [phase.name for phase in report.phases] == ["run", "distill", "refine"]
        assert workspace.when_due().learnt.n_new_memories == 0
        workspace.ledger.memories.set_status(waiting.id, "active", "by a person")
        assert workspace.when_due().learnt.n_new_memories == 1


def test_a_phase_of_a_cycle_that_was_given_up_is_no_look_and_one_found_done_is(cycled: Path) -> None:
    with agentkd.Workspace(cycled) as workspace:
        [done] = [phase for phase in workspace.report().phases if phase.name == "compile"]
        workspace.ledger.memories.admit([lesson(number) for number in range(8)])
        compiled = done.model_copy(update={"key": "given-up", "started_at": now()})
        store(workspace, 2, compiled, status="failed")
        assert workspace.when_due().learnt.n_new_memories == 8  # compiled, and never trained on
        store(workspace, 3, done)
        assert workspace.when_due().learnt.n_new_memories == 0


def test_measured_gain_makes_a_cycle_due_before_the_counts_do(cycled: Path) -> None:
    helps = Utility(recalls=20, wins=20, held_out=10, held_out_wins=0)
    with agentkd.Workspace(cycled) as workspace:
        runs = workspace.trajectories(split="train")
        workspace.ledger.memories.admit([lesson(0, utility=helps)])
        for run in runs:
            workspace.ledger.trials.record(run.id, "shown", Scope())
        assert workspace.when_due().learnt.expected_gain == 0  # no graded task recalled anything
        for run in runs:
            assert run.outcome is not None
            workspace.ledger.trajectories.grade(run.id, run.outcome)
        due = workspace.when_due()
        assert due.learnt.n_new_memories == 1
        assert due.learnt.expected_gain > 20
        assert due.is_due
    with agentkd.Workspace(cycled, settings={"cycle": {"min_gain": 1000}}) as workspace:
        assert not workspace.when_due().is_due


def test_a_used_up_budget_and_a_plugin_have_the_last_word(cycled: Path) -> None:
    heard: dict[str, float] = {}

    class Always:
        @agentkd.hookimpl
        def is_compile_due(self, n_new_memories, n_new_trajectories, expected_gain):  # type: ignore[no-untyped-def]
            heard.update(n=n_new_memories, runs=n_new_trajectories, gain=expected_gain)
            return True

    with agentkd.Workspace(cycled, plugins=[Always()]) as workspace:
        assert workspace.when_due().reason.startswith("a plugin decides: ")
        assert workspace.when_due().is_due
        assert heard == {"n": 0, "runs": 0, "gain": 0.0}
        heard.clear()
        assert is_due(workspace.parts)  # asked within a cycle, of the same figures
        assert heard == {"n": 0, "runs": 0, "gain": 0.0}
    for table in ({"day_seconds": 1e-3}, {"day_tokens": 1}):
        with agentkd.Workspace(cycled, plugins=[Always()], settings={"cycle": table}) as workspace:
            due = workspace.when_due()
            assert not due.is_due
            assert due.reason.startswith("the cycles of the last 24 hours took ")


def test_the_budget_of_a_day_counts_all_roles_cut_off_phases_and_nobody_else(cycled: Path) -> None:
    def day(workspace: agentkd.Workspace) -> dict[str, float]:
        return dict(_spent(workspace.parts, now() - timedelta(days=1)))

    with agentkd.Workspace(cycled) as workspace:
        every, before = workspace.ledger.calls.total(), day(workspace)
        assert before["tokens"] == every.prompt_tokens + every.completion_tokens > 0
        model, hello = workspace.parts.model("base"), [Message(role="user", content="Hello!")]
        model.reply(hello, max_new_tokens=1)  # an agent of the application
        assert day(workspace) == before
        with workspace.parts.meter.on("cycle-2"):
            model.reply(hello, max_new_tokens=1, purpose="distill")
        assert day(workspace)["tokens"] > before["tokens"]
        phase = PhaseReport(name="run", key="k")
        for status, seconds in (("stopped", 5.0), ("failed", 3.0), ("done", 2.0)):
            workspace.ledger.cycles.phase_start("k", "run", "cycle-2")
            ended = phase.model_copy(update={"status": status, "seconds": seconds})
            workspace.ledger.cycles.phase_done(ended, "cycle-2")
        [kept] = workspace.ledger.cycles.phases("cycle-2")
        assert (kept.seconds, kept.earlier_seconds) == (2.0, 8.0)
        assert day(workspace)["seconds"] == pytest.approx(before["seconds"] + 10.0)


def test_what_is_left_of_the_day_is_a_ceiling_of_a_cycle_by_schedule(
    cycled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[Ceiling] = []

    def run(parts: Any, *, recompile: bool = False) -> CycleReport:
        met.append(parts.ceiling)
        return CycleReport(id="cycle-2", number=2, suite="jsonl")

    class Always:
        @agentkd.hookimpl
        def is_compile_due(self) -> bool:
            return True

    monkeypatch.setattr("agentkd.cycle.run_cycle", run)
    with agentkd.Workspace(cycled) as workspace:
        spent = _spent(workspace.parts, now() - timedelta(days=1))
    table = {"day_tokens": int(spent["tokens"]) + 100, "day_seconds": spent["seconds"] + 60.0}
    with agentkd.Workspace(cycled, plugins=[Always()], settings={"cycle": table}) as workspace:
        workspace.cycle_if_due(max_usd=2.0)
        workspace.cycle_if_due(max_tokens=7, max_seconds=1e9)
        workspace.cycle()  # asked for outright
    ceilings = [(each.max_seconds, each.max_tokens, each.max_usd) for each in met]
    left = pytest.approx(60.0)
    assert ceilings == [(left, 100, 2.0), (left, 7, None), (None, None, None)]


@pytest.mark.parametrize("option", ["--if-due", "--watch"])
def test_what_is_asked_for_outright_is_not_asked_whether_it_is_due(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run_command_line(["-C", str(tmp_path), "cycle", "--recompile", option]) == 2
    assert "--recompile is not asked whether it is due" in capsys.readouterr().err


def test_ceilings_count_from_the_first_item_on() -> None:
    clock, spent = [0.0], [(100, 1.0)]
    ceiling = Ceiling(
        max_seconds=5, max_tokens=10, max_usd=0.5, spent=lambda: spent[0], clock=lambda: clock[0]
    )
    clock[0] = 9.0
    ceiling.begin()  # the first item is always done
    with pytest.raises(CeilingError, match="the ceiling of 5 seconds is met after 9"):
        ceiling.begin()
    clock[0] = 1.0
    ceiling.begin()
    spent[0] = (110, 1.0)
    with pytest.raises(CeilingError, match="of 10 tokens is met with 10"):
        ceiling.check()
    spent[0] = (100, 1.5)
    with (
        pytest.raises(CeilingError, match=r"of \$0.5 is met"),
        ceiling.watching(SilentProgress()).bar("x") as bar,
    ):
        bar.advance()
    with pytest.raises(CeilingError, match="SIGTERM"):
        Ceiling(asked=lambda: "SIGTERM").begin()


def test_a_cycle_stops_between_items_and_goes_on_to_the_same_end(
    calm: Path, new_workspace: NewWorkspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new_workspace("short")
    assert asked(folder, "--max-tokens", "1", capsys=capsys)[0] == 11
    with agentkd.Workspace(folder) as workspace:
        first = workspace.report()
        n_runs = workspace.ledger.counts()["trajectories"]
        assert first.stopped.startswith("stopped in `run`: the ceiling of 1 tokens is met with ")
        assert 0 < n_runs < 28
        assert [phase.status for phase in first.phases] == ["stopped"]
        assert "Not finished" in workspace.report_path().read_text(encoding="utf-8")
        assert workspace.when_due().reason == "cycle-1 was cut off and goes on"

        def at_a_save() -> str:
            return "a test" if list((folder / "checkpoints").glob("*.partial/step-*")) else ""

        second = workspace.cycle(asked=at_a_save)
        assert second.number == 1
        assert second.stopped == "stopped in `train`: asked to stop (a test)"
        assert not workspace.checkpoints()

        def at_a_held_out_task() -> str:
            return "a test" if workspace.ledger.trajectories.list(split="holdout", limit=1) else ""

        third = workspace.cycle(asked=at_a_held_out_task)
        assert third.stopped == "stopped in `evaluate`: asked to stop (a test)"
        assert [phase.name for phase in third.phases][-2:] == ["train", "evaluate"]
    assert run_command_line(["-q", "-C", str(folder), "--json", "cycle", "--if-due"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] == ""
    with agentkd.Workspace(folder) as workspace, agentkd.Workspace(calm) as whole:
        ours, theirs = (
            file_sha256(
                each.parts.checkpoint_folder(each.checkpoints()[0].name) / "adapter_model.safetensors"
            )
            for each in (workspace, whole)
        )
        assert ours == theirs
        assert workspace.report().counts["trajectories"] == whole.report().counts["trajectories"]


def test_one_cycle_runs_at_a_time(cycled: Path) -> None:
    with (
        Ledger.open(cycled / "ledger.db") as other,
        other.leases.held("cycle", 60.0),
        agentkd.Workspace(cycled) as workspace,
        pytest.raises(LockedError, match=r"lease `cycle` .* is held by process"),
    ):
        workspace.cycle()


def test_a_cycle_whose_lease_was_taken_over_writes_nothing_more_and_the_next_owner_ends_it(
    cycled: Path,
) -> None:
    class Loses:
        """Another worker that finds the lease lapsed while this one stands still."""

        taken: Any = None

        @agentkd.hookimpl
        def after_phase(self, report: Any) -> None:
            if report.name == "distill":
                with Ledger.open(cycled / "ledger.db") as other:
                    Loses.taken = other.leases.take("cycle", 0.001, over=True)
                    Loses.counts = other.counts()

    settings = {"cycle": {"seed": 7}, "gate": {"min_tasks": 7}}
    with (
        agentkd.Workspace(cycled, settings=settings, plugins=[Loses()]) as workspace,
        pytest.raises(LockedError, match=r"lost the lease `cycle` .* took it over"),
    ):
        workspace.cycle()
    with Ledger.open(cycled / "ledger.db") as ledger:
        assert ledger.counts() == Loses.counts
        assert [cycle.number for cycle in ledger.cycles.list("done")] == [1]
    with agentkd.Workspace(cycled, settings=settings) as workspace:
        assert workspace.cycle().number == 2
        assert [cycle.number for cycle in workspace.ledger.cycles.list("done")] == [1, 2]


def test_of_two_workers_that_both_saw_a_cycle_due_one_runs_it(cycled: Path) -> None:
    due = [True]

    class Asked:
        @agentkd.hookimpl
        def is_compile_due(self) -> bool:
            return due[0]

    with agentkd.Workspace(cycled, plugins=[Asked()]) as workspace:
        assert workspace.when_due().is_due
        due[0] = False  # the other one was faster
        assert workspace.cycle_if_due() is None
        assert workspace.ledger.counts()["cycles"] == 1


def test_a_watch_runs_what_is_due_waits_otherwise_and_ends_when_asked(
    cycled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    stop = threading.Event()
    opened = []

    class Never:
        @agentkd.hookimpl
        def is_compile_due(self) -> bool:
            return len(opened) == 2

    def open_workspace() -> agentkd.Workspace:
        opened.append(1)
        if len(opened) == 4:
            stop.set()
        return agentkd.Workspace(cycled, plugins=[Never()])

    reports: list[Any] = []
    n = watch(open_workspace, stop=stop, say=said.append, after=reports.append, every=0.01)
    assert (n, len(opened)) == (1, 4)
    assert reports[0].number == 2
    assert [line.partition(":")[0] for line in said] == ["not due", "due", "not due"]


def test_the_base_tries_tasks_unaided_where_no_such_run_is_there(new_workspace: NewWorkspace) -> None:
    settings = {
        "compile": {"easy_tasks": 3},
        "roles": {"actor": "scripted:echo"},
        "cycle": {"n": 5, "min_new_memories": 10_000},
    }
    with agentkd.Workspace(new_workspace("echo"), settings=settings) as workspace:
        ran = workspace.cycle().phases[0]
        assert ran.summary.endswith(" of 3 unaided")
        mine = [run for run in workspace.trajectories() if run.model == workspace.settings.roles.student]
        assert len(mine) == 3
        assert not any(run.recalled for run in mine)
        assert workspace.ledger.counts()["trajectories"] == 5 + 3


def test_a_watch_tries_again_where_another_process_runs_a_cycle(cycled: Path) -> None:
    said: list[str] = []
    stop = threading.Event()

    class Always:
        @agentkd.hookimpl
        def is_compile_due(self) -> bool:
            return True

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("not now"):
            stop.set()

    with Ledger.open(cycled / "ledger.db") as other, other.leases.held("cycle", 60.0):
        watch(lambda: agentkd.Workspace(cycled, plugins=[Always()]), stop=stop, say=say, every=0.01)
    assert said[0].startswith("due: ")
    assert "is held by process" in said[1]


def test_a_watch_outlives_what_fails_while_it_opens_looks_or_runs(cycled: Path) -> None:
    said: list[str] = []
    stop = threading.Event()
    full = OSError(errno.ENOSPC, "No space left on device")
    faults: list[Exception] = [StoreError("the ledger is away"), full, ModelError("nobody answers")]

    class Fails:
        @agentkd.hookimpl
        def is_compile_due(self) -> bool:
            raise StoreError("the disk is away")

    def open_workspace() -> agentkd.Workspace:
        if faults:
            raise faults.pop(0)
        return agentkd.Workspace(cycled, plugins=[Fails()])

    def say(line: str) -> None:
        said.append(line)
        if line.endswith("the disk is away"):
            stop.set()

    assert watch(open_workspace, stop=stop, say=say, every=0.01) == 0
    assert said[:3] == [f"not now: {why}" for why in ("the ledger is away", "disk full", "nobody answers")]
    faults.append(ConfigError("no such setting"))
    with pytest.raises(ConfigError):
        watch(open_workspace, stop=threading.Event(), say=say, every=0.01)


class _AlwaysDue:
    """A workspace in which a cycle is always due, and finds everything done."""

    def __init__(self, money: float = 0.0) -> None:
        self.settings = SimpleNamespace(cycle=SimpleNamespace(poll_seconds=0.01))
        self.parts = SimpleNamespace(meter=Meter(max_usd=5.0))
        self._money = money

    def __enter__(self) -> _AlwaysDue:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def when_due(self) -> Any:
        return SimpleNamespace(is_due=True, reason="a plugin decides")

    def cycle_if_due(self, **ceilings: Any) -> CycleReport:
        with self.parts.meter.reserve(Usage(usd=self._money), "m") as hold:
            hold.spent.append(Usage(usd=self._money))
        verdict = Verdict(promote=False, checkpoint="c", against="base")
        return CycleReport(id="cycle-2", number=2, suite="jsonl", verdict=verdict)


def test_a_watch_spends_what_one_command_may_and_no_more() -> None:
    opened: list[_AlwaysDue] = []
    stop = threading.Event()

    def open_workspace() -> Any:
        opened.append(_AlwaysDue(money=2.0))
        if len(opened) == 5:
            stop.set()
        return opened[-1]

    with pytest.raises(BudgetError, match=r"\$4.0000 of \$5.0000 are spent"):
        watch(open_workspace, stop=stop, say=lambda line: None)
    assert len(opened) == 3


def test_a_watch_pauses_after_a_cycle_too() -> None:
    stop, reports = threading.Event(), list[CycleReport]()
    threading.Timer(0.5, stop.set).start()
    opened: Any = _AlwaysDue
    n = watch(opened, stop=stop, say=lambda line: None, after=reports.append, every=300.0)
    assert (n, len(reports)) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_that_watches_ends_cleanly_at_a_signal(cycled: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "agentkd.cli", "-C", str(cycled), "cycle", "--watch", "--every", "600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("not due: 0 of 8 new memories")
        watching.send_signal(number)
        assert watching.wait(timeout=60) == 0
