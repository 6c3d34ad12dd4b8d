"""A person decides on calls; what was wrong is kept as a correction, what was right is what is trained on."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, Recalls, add, call, refund

from agentkd.agents import (
    Approve,
    Edit,
    Finished,
    Interrupted,
    PausedRun,
    Reject,
    Respond,
    open_checkpointer,
)
from agentkd.compiler.turn import turns_of
from agentkd.config import TrustSettings
from agentkd.errors import DataError, NotFoundError, StoreError
from agentkd.ledger import Ledger
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Correction, Message, Outcome, Reply, Route, Usage
from agentkd.tools import ToolBox
from agentkd.trust import trust_of_run

WRONG = call("refund", order="A1", euros=100)
RIGHT = call("refund", order="A1", euros=10)


class Counting(ToolBox):
    """A world that remembers what was really run."""

    def __init__(self) -> None:
        super().__init__([add, refund])
        self.ran: list[Any] = []

    def call(self, call: Any) -> Any:
        self.ran.append(call)
        return super().call(call)


@pytest.fixture
def world() -> Counting:
    return Counting()


def pause(build: Build, world: Counting, script: Any = None, **options: Any) -> tuple[Any, PausedRun]:
    options.setdefault("interrupt_on", ["refund"])
    agent = build(script or [WRONG, "done"], world=lambda task: world, **options)
    run = agent.run("Refund A1")
    assert isinstance(run, PausedRun)
    return agent, run


def test_a_call_waits_for_a_person(build: Build, world: Counting, ledger: Ledger) -> None:
    agent, run = pause(build, world)
    assert run.call == WRONG
    assert world.ran == []
    assert ledger.counts()["trajectories"] == 0
    finished = agent.resume(run.thread_id, Approve())
    assert world.ran == [WRONG]
    assert (finished.id, finished.answer) == (run.id, "done")
    assert ledger.corrections.list() == []
    with pytest.raises(NotFoundError, match="no run of agent `tester` waits"):
        agent.resume(run.thread_id, Approve())


def test_other_tools_do_not_wait(build: Build, world: Counting) -> None:
    run = build([call("add", a=1, b=1), "2"], world=lambda task: world, interrupt_on=["refund"]).run("1 + 1")
    assert not isinstance(run, PausedRun)
    assert run.answer == "2"


def test_an_edit_keeps_the_proposal_and_stores_what_was_accepted(
    build: Build, world: Counting, ledger: Ledger
) -> None:
    model = ScriptedModel([WRONG, "done"])
    agent, run = pause(build, world, model)
    finished = agent.resume(run.thread_id, Edit(call=RIGHT, reason="At most 10 euros."))
    step = finished.steps[0]
    assert world.ran == [RIGHT]
    assert step.reply.tool_calls == (WRONG,)
    assert step.accepted_calls == (RIGHT,)
    assert step.results[0].content == "refunded 10 for A1"
    said = model.calls[1].messages[2]
    assert said.tool_calls == (RIGHT,)
    assert said.content == '{"name": "refund", "arguments": {"order": "A1", "euros": 10}}'
    (correction,) = ledger.corrections.list()
    assert correction == Correction(
        id=correction.id, trajectory_id=finished.id, step=0, text="At most 10 euros.", source="person",
        kind="parameter", proposed=(WRONG,), accepted=(RIGHT,), created_at=correction.created_at,
    )  # fmt: skip
    assert ledger.trajectories.get(finished.id).steps[0] == step


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        (call("refnd", order="A1", euros=10), r"no tool is called `refnd`; run `.*` waits on \(.*`refund`\?"),
        (call("refund", order="A1", euros="many"), "does not fit its schema: euros: 'many' is not of type"),
        (call("refund", order="A1"), "does not fit its schema: 'euros' is a required property"),
        (
            call("refund", order="A1", euros=1, cents=5),
            r"'cents' was unexpected\); .* \(it takes: order, euros\)",
        ),
    ],
)
def test_an_edit_that_no_tool_takes_is_refused_and_the_run_waits_on(
    build: Build, world: Counting, ledger: Ledger, edited: Any, said: str
) -> None:
    agent, run = pause(build, world)
    with pytest.raises(DataError, match=said):
        agent.resume(run.thread_id, Edit(call=edited))
    assert (world.ran, ledger.corrections.list()) == ([], [])
    assert agent.resume(run.thread_id, Edit(call=RIGHT)).steps[0].accepted_calls == (RIGHT,)
    assert world.ran == [RIGHT]  # in the world that waited


def test_an_edit_to_another_tool_corrects_the_plan(build: Build, world: Counting, ledger: Ledger) -> None:
    agent, run = pause(build, world)
    agent.resume(run.thread_id, Edit(call=call("add", a=1, b=1)))
    (correction,) = ledger.corrections.list()
    assert (correction.kind, correction.text) == ("plan", "Call `add` in place of `refund`.")


def test_an_edit_without_words_says_what_changed(build: Build, ledger: Ledger) -> None:
    def book(room: str = "", day: str = "", note: str = "") -> str:
        """Book a room."""
        return f"{room} on {day}"

    proposed = call("book", room="7", day="Monday")
    agent = build([proposed, "done"], world=lambda task: ToolBox([book]), interrupt_on=["book"])
    run = agent.run("Book a room")
    edited = {"name": "book", "arguments": {"day": "Tuesday", "note": "x"}}
    agent.resume(run.thread_id, {"kind": "edit", "call": edited})
    (correction,) = ledger.corrections.list()
    assert correction.text == "In `book`, set `day` to 'Tuesday', set `note` to 'x', leave out `room`."


def test_an_edit_that_changes_nothing_teaches_nothing(build: Build, world: Counting, ledger: Ledger) -> None:
    agent, run = pause(build, world)
    agent.resume(run.thread_id, Edit(call=WRONG))
    assert ledger.corrections.list() == []


def test_a_rejected_call_is_not_run_and_the_model_hears_why(
    build: Build, world: Counting, ledger: Ledger
) -> None:
    model = ScriptedModel([WRONG, "I asked a colleague."])
    agent, run = pause(build, world, model)
    finished = agent.resume(run.thread_id, Reject(reason="Ask a colleague first."))
    assert world.ran == []
    assert (finished.steps[0].accepted_calls, finished.steps[0].results) == ((), ())
    assert model.calls[1].messages[-1].content == "error: a person refused this call: Ask a colleague first."
    (correction,) = ledger.corrections.list()
    assert (correction.kind, correction.text) == ("plan", "Ask a colleague first.")
    assert (correction.proposed, correction.accepted) == ((WRONG,), ())


def test_a_person_may_answer_in_the_tools_place(build: Build, world: Counting, ledger: Ledger) -> None:
    model = ScriptedModel([WRONG, "done"])
    agent, run = pause(build, world, model)
    finished = agent.resume(run.thread_id, Respond(text="paid by hand"))
    assert world.ran == []
    assert finished.steps[0].accepted_calls == (WRONG,)
    assert finished.steps[0].results[0].content == "paid by hand"
    assert model.calls[1].messages[-1] == Message(
        role="tool", content="paid by hand", name="refund", origin="person"
    )
    assert trust_of_run(finished, TrustSettings()).outside == ()  # a person said it, and not the tool
    (correction,) = ledger.corrections.list()
    assert (correction.source, correction.kind, correction.text) == ("person", "answer", "paid by hand")
    assert (correction.proposed, correction.accepted, correction.step) == ((WRONG,), (), 0)
    dropped = Counter[str]()
    failed = finished.model_copy(update={"outcome": Outcome(success=False)})
    assert list(turns_of(failed, [correction], (), dropped)) == []  # it answers, and accepts nothing


def test_an_empty_answer_in_the_tools_place_teaches_nothing(
    build: Build, world: Counting, ledger: Ledger
) -> None:
    agent, run = pause(build, world)
    agent.resume(run.thread_id, Respond(text=""))
    assert ledger.corrections.list() == []


def test_several_calls_are_asked_one_after_the_other(build: Build, world: Counting, ledger: Ledger) -> None:
    other = call("refund", order="B2", euros=5)
    both = Reply(tool_calls=(call("add", a=1, b=1), WRONG, other), usage=Usage(usd=0.0))
    model = ScriptedModel([both, "done"])
    agent, run = pause(build, world, model)
    assert run.call == WRONG
    again = agent.resume(run.thread_id, Reject(reason="no"))
    assert isinstance(again, PausedRun)
    assert again.call == other
    finished = agent.resume(run.thread_id, Edit(call=RIGHT, reason="ten"))
    assert world.ran == [call("add", a=1, b=1), RIGHT]
    assert finished.steps[0].accepted_calls == (call("add", a=1, b=1), RIGHT)
    assert [c.text for c in ledger.corrections.list()] == ["no", "ten"]
    assert [m.role for m in finished.messages] == [
        "system", "user", "assistant", "tool", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert len(model.calls) == 2


def test_a_function_may_decide_which_calls_wait(build: Build, world: Counting) -> None:
    agent = build(
        [call("refund", order="A", euros=1), WRONG, "done"],
        world=lambda task: world,
        approve=lambda call: call.arguments.get("euros", 0) < 50,
    )
    run = agent.run("?")
    assert isinstance(run, PausedRun)
    assert (run.call, len(run.steps), len(world.ran)) == (WRONG, 1, 1)


def test_the_stream_ends_with_the_question(build: Build, world: Counting) -> None:
    agent = build([WRONG, "done"], world=lambda task: world, interrupt_on=["refund"])
    events = list(agent.stream("?"))
    assert isinstance(events[-1], Interrupted)
    rest = list(agent.resume_stream(events[-1].run.thread_id, Approve()))
    assert isinstance(rest[-1], Finished)


def test_a_wrong_decision_is_refused_and_the_run_still_waits(build: Build, world: Counting) -> None:
    agent, run = pause(build, world)
    with pytest.raises(DataError, match="no decision"):
        agent.resume(run.thread_id, {"kind": "shrug"})
    assert agent.resume(run.thread_id, Approve()).answer == "done"


def test_a_paused_run_survives_a_restart(
    build: Build, world: Counting, tmp_path: Path, ledger: Ledger
) -> None:
    first = open_checkpointer(tmp_path / "agents.db")
    _, run = pause(build, world, checkpointer=first)
    first.conn.close()
    second = open_checkpointer(tmp_path / "agents.db")
    later = build(["done"], world=lambda task: world, interrupt_on=["refund"], checkpointer=second)
    finished = later.resume(run.thread_id, Edit(call=RIGHT, reason="ten"))
    assert (finished.id, finished.steps[0].accepted_calls, finished.answer) == (run.id, (RIGHT,), "done")
    assert finished.steps[0].reply.tool_calls == (WRONG,)
    assert ledger.trajectories.get(run.id) == finished
    assert second.conn.execute("select count(*) from checkpoints").fetchone() == (0,)
    second.conn.close()


class Serves:
    """Two students, of which one serves at a time."""

    def __init__(self, now: str, answers: dict[str, list[Any]]) -> None:
        self.now = now
        self.word = "aside"
        self.models = {name: ScriptedModel(said, name=f"tiny@{name}") for name, said in answers.items()}

    def checkpoint(self) -> str:
        return self.now

    def model(self, checkpoint: str) -> ScriptedModel:
        return self.models[checkpoint]

    def aside(self, text: str, checkpoint: str) -> Route | None:
        return Route(aside=checkpoint) if self.word in text and checkpoint != "base" else None


def test_a_held_agent_asks_per_run_what_serves_and_a_waiting_run_keeps_its_own(
    build: Build, world: Counting, tmp_path: Path
) -> None:
    saver = open_checkpointer(tmp_path / "agents.db")
    options: dict[str, Any] = {
        "world": lambda task: world, "interrupt_on": ["refund"], "checkpointer": saver,
    }  # fmt: skip
    serves = Serves("student@1", {"student@1": [WRONG], "student@2": ["no"]})
    agent = build(["the first"], serving=serves, **options)
    waiting = agent.run("Refund A1")
    assert isinstance(waiting, PausedRun)
    serves.now = "student@2"
    other = agent.run("Refund B2")
    assert (other.model, other.answer) == ("tiny@student@2", "no")
    later = Serves("base", {"student@1": ["done"], "student@2": [], "base": ["of the base"]})
    recalls = Recalls([])
    restarted = build(["the first"], serving=later, recaller=recalls, **options)
    finished = restarted.resume(waiting.thread_id, Approve())
    assert (finished.model, finished.answer) == ("tiny@student@1", "done")
    assert restarted.run("Refund C3").answer == "of the base"
    assert [asked["checkpoint"] for asked in recalls.asked] == ["student@1", "base"]
    saver.conn.close()


def test_the_base_acts_where_what_serves_stands_aside(build: Build) -> None:
    serves = Serves("student@1", {"student@1": ["of the student"], "base": ["of the base"]})
    agent = build(["nobody"], serving=serves)
    aside = agent.run("stand aside")
    assert (aside.answer, aside.extras["route"]["aside"]) == ("of the base", "student@1")
    assert agent.run("act").answer == "of the student"


def test_a_waiting_run_goes_on_with_the_base_once_its_student_stands_aside(
    build: Build, world: Counting, tmp_path: Path
) -> None:
    serves = Serves("student@1", {"student@1": [WRONG], "base": ["of the base"]})
    options: dict[str, Any] = {"world": lambda task: world, "interrupt_on": ["refund"]}
    agent = build(["nobody"], serving=serves, **options)
    waiting = agent.run("Refund A1")
    assert isinstance(waiting, PausedRun)
    serves.word = "A1"  # revoked meanwhile
    finished = agent.resume(waiting.thread_id, Approve())
    assert (finished.answer, finished.extras["route"]["aside"]) == ("of the base", "student@1")


def test_a_killed_run_goes_on_where_it_was(build: Build, world: Counting, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dies(messages: Any, tools: Any) -> Any:
        if len(messages) > 2:
            raise Killed
        return call("add", a=1, b=2)

    saver = open_checkpointer(tmp_path / "agents.db")
    with pytest.raises(Killed):
        build(dies, world=lambda task: world, checkpointer=saver).run("1 + 2", thread_id="t")
    finished = build(["3"], world=lambda task: world, checkpointer=saver).run("1 + 2", thread_id="t")
    assert world.ran == [call("add", a=1, b=2)]
    assert (finished.answer, len(finished.steps)) == ("3", 2)
    saver.conn.close()


def test_a_thread_that_waits_for_a_person_takes_no_other_request(build: Build) -> None:
    agent = build([WRONG, "done", "It is 555."], interrupt_on=["refund"])
    paused = agent.run("Refund A1", thread_id="ann")
    with pytest.raises(DataError, match=r"thread `ann` .* 'Refund A1'"):
        agent.run("What is your number?", thread_id="ann")
    again = next(iter(agent.stream("Refund A1", thread_id="ann")))
    assert again.trajectory_id == paused.id, "the same request only asks again"
    assert agent.resume("ann", Approve()).answer == "done"
    assert agent.run("What is your number?", thread_id="ann").answer == "It is 555."


def test_a_forged_checkpoint_builds_nothing(tmp_path: Path) -> None:
    code = f"""
import ormsgpack, sqlite3, sys
from agentkd.agents import open_checkpointer
saver = open_checkpointer({str(tmp_path / "agents.db")!r})
marker = {str(tmp_path / "ran")!r}
evil = ormsgpack.Ext(0, ormsgpack.packb(("os", "system", "touch " + marker)))
print(saver.serde.loads_typed(("msgpack", ormsgpack.packb({{"run": evil}}))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "touch" in done.stdout
    assert not (tmp_path / "ran").exists()


def test_a_checkpointer_in_a_bad_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database, but long enough to be looked at")
    for path in (tmp_path / "file" / "agents.db", tmp_path / "file"):
        with pytest.raises(StoreError, match="cannot hold the state of agents"):
            open_checkpointer(path)
    assert sqlite3.sqlite_version
