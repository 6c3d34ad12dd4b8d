"""Decisions come in several shapes, for one call or many, and may give the whole try up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, add, call, refund

from agentkd.agents import (
    Approve,
    Edit,
    Finished,
    Interrupted,
    PausedRun,
    Reject,
    Restart,
    Restarted,
    open_checkpointer,
)
from agentkd.errors import DataError
from agentkd.ledger import Ledger
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Reply, Usage
from agentkd.tools import ToolBox

WRONG = call("refund", order="A1", euros=100)
RIGHT = call("refund", order="A1", euros=10)
OTHER = call("refund", order="B2", euros=5)
BOTH = Reply(tool_calls=(WRONG, OTHER), usage=Usage(usd=0.0))


class Worlds:
    """Makes worlds and remembers each, with what was run in it."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, task: Any) -> Any:
        worlds = self

        class World(ToolBox):
            def __init__(self) -> None:
                super().__init__([add, refund])
                self.ran: list[Any] = []
                self.is_closed = False
                worlds.made.append(self)

            def call(self, call: Any) -> Any:
                self.ran.append(call)
                return super().call(call)

            def close(self) -> None:
                self.is_closed = True

        return World()


@pytest.fixture
def worlds() -> Worlds:
    return Worlds()


def pause(build: Build, worlds: Worlds, script: Any, **options: Any) -> tuple[Any, PausedRun]:
    agent = build(script, world=worlds, interrupt_on=["refund"], **options)
    run = agent.run("Refund A1")
    assert isinstance(run, PausedRun)
    return agent, run


@pytest.mark.parametrize(
    ("decision", "ran", "text"),
    [
        ({"type": "approve"}, [WRONG], None),
        (
            {"type": "edit", "edited_action": {"name": "refund", "args": RIGHT.arguments}},
            [RIGHT],
            "In `refund`, set `euros` to 10.",
        ),
        ({"type": "reject", "message": "Ask first."}, [], "Ask first."),
        ({"type": "reject"}, [], "Do not call `refund` here."),
        ({"type": "respond", "message": "paid by hand"}, [], "paid by hand"),
        ([{"type": "approve"}], [WRONG], None),
        ({"decisions": [{"type": "approve"}]}, [WRONG], None),
    ],
)
def test_decisions_of_langchains_middleware_are_understood(
    build: Build, worlds: Worlds, ledger: Ledger, decision: Any, ran: list[Any], text: str | None
) -> None:
    agent, run = pause(build, worlds, [WRONG, "done"])
    assert agent.resume(run.thread_id, decision).answer == "done"
    assert worlds.made[0].ran == ran
    assert [c.text for c in ledger.corrections.list()] == ([text] if text else [])


def test_the_question_has_the_shape_that_langchains_front_ends_show(build: Build, worlds: Worlds) -> None:
    _, run = pause(build, worlds, [BOTH, "done"])
    assert run.waiting == (WRONG, OTHER)
    assert run.review_request["action_requests"] == [
        {"name": "refund", "args": WRONG.arguments},
        {"name": "refund", "args": OTHER.arguments},
    ]
    (config,) = run.review_request["review_configs"]
    assert config["action_name"] == "refund"


def test_our_answers_are_those_that_langchains_middleware_knows() -> None:
    middleware = pytest.importorskip("langchain.agents.middleware.human_in_the_loop")
    kinds = {"ApproveDecision", "EditDecision", "RejectDecision", "RespondDecision"}
    assert kinds <= set(dir(middleware))
    assert set(middleware.EditDecision.__annotations__) == {"type", "edited_action"}
    assert set(middleware.Action.__annotations__) == {"name", "args"}
    assert set(middleware.HITLRequest.__annotations__) == {"action_requests", "review_configs"}


def test_one_list_decides_on_all_waiting_calls(build: Build, worlds: Worlds, ledger: Ledger) -> None:
    agent, run = pause(build, worlds, [BOTH, "done"])
    events = list(agent.resume_stream(run.thread_id, [Edit(call=RIGHT, reason="ten"), Reject(reason="no")]))
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Interrupted) for event in events)
    assert worlds.made[0].ran == [RIGHT]
    assert [c.text for c in ledger.corrections.list()] == ["ten", "no"]


@pytest.mark.parametrize(
    "decisions",
    [
        [Approve(), Approve(), Approve()],
        [],
        [Approve(), {"type": "shrug"}],
        [Restart(reason="anew"), Approve()],
        {"type": "edit", "edited_action": {"args": {}}},
        {"type": "approve", "edited_action": {"name": "refund", "args": {}}},
    ],
)
def test_a_list_that_does_not_fit_is_refused_whole(build: Build, worlds: Worlds, decisions: Any) -> None:
    agent, run = pause(build, worlds, [BOTH, "done"])
    with pytest.raises(DataError):
        agent.resume(run.thread_id, decisions)
    assert worlds.made[0].ran == []
    assert agent.resume(run.thread_id, [Approve(), Approve()]).answer == "done"


def test_after_an_edit_the_model_reads_nothing_of_the_proposal(build: Build, worlds: Worlds) -> None:
    said = Reply(text="I pay 100 euros back.", tool_calls=(WRONG,), usage=Usage(usd=0.0))
    model = ScriptedModel([said, "done"])
    agent, run = pause(build, worlds, model)
    agent.resume(run.thread_id, Edit(call=RIGHT))
    seen = " ".join(message.model_dump_json() for message in model.calls[1].messages)
    assert "100" not in seen
    assert '"euros":10' in seen


def test_a_restart_forgets_the_try_but_for_the_persons_words(
    build: Build, worlds: Worlds, ledger: Ledger
) -> None:
    model = ScriptedModel([call("add", a=1, b=1), WRONG, RIGHT, "done"])
    agent, run = pause(build, worlds, model)
    events = list(agent.resume_stream(run.thread_id, Restart(reason="Never pay back\nmore than 10.")))
    assert [type(e) for e in events if isinstance(e, (Restarted, Interrupted))] == [Restarted, Interrupted]
    again = events[-1].run
    assert (again.thread_id, again.call, again.attempt) == (run.thread_id, RIGHT, run.attempt + 1000)
    assert [m.role for m in model.calls[2].messages] == ["system", "user"]
    assert model.calls[2].messages[1].content == (
        "A person stopped an earlier try of this request and said: Never pay back more than 10.\n\n"
        "Request: Refund A1"
    )
    finished = agent.resume(run.thread_id, {"type": "approve"})
    assert finished.answer == "done"
    first, second = worlds.made
    assert (first.ran, first.is_closed) == ([call("add", a=1, b=1)], True)
    assert (second.ran, second.is_closed) == ([RIGHT], True)
    given_up, done = ledger.trajectories.list(run_id=run.run_id)
    assert (given_up.id, given_up.failure.kind if given_up.failure else "") == (run.id, "cancelled")
    assert [step.accepted_calls for step in given_up.steps] == [(call("add", a=1, b=1),), ()]
    assert done == finished
    (correction,) = ledger.corrections.list()
    assert (correction.trajectory_id, correction.step, correction.kind) == (run.id, 1, "plan")
    assert correction.text == "Never pay back\nmore than 10."


def test_a_restart_survives_a_restart_of_the_process(build: Build, worlds: Worlds, tmp_path: Path) -> None:
    first = open_checkpointer(tmp_path / "agents.db")
    agent, run = pause(build, worlds, [WRONG, RIGHT], checkpointer=first)
    assert isinstance(agent.resume(run.thread_id, Restart(reason="ten")), PausedRun)
    first.conn.close()
    second = open_checkpointer(tmp_path / "agents.db")
    later = build(["done"], world=worlds, interrupt_on=["refund"], checkpointer=second)
    finished = later.resume(run.thread_id, Approve())
    assert (finished.attempt, finished.answer) == (1000, "done")
    second.conn.close()


def test_a_restart_needs_words(build: Build, worlds: Worlds) -> None:
    agent, run = pause(build, worlds, [WRONG])
    with pytest.raises(DataError):
        agent.resume(run.thread_id, {"kind": "restart"})
