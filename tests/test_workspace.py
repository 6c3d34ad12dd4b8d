"""The workspace as an application holds it: made, refused, run, corrected, served and taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.agents import PausedRun
from agentkd.cycle.stage import tools_of
from agentkd.errors import ConfigError, DataError, NotFoundError, StoreError
from agentkd.ledger import Ledger
from agentkd.memory.index_exact import ExactIndex
from agentkd.memory.lexical import LexicalIndex
from agentkd.schema import Correction, Scope, Task, ToolCall
from agentkd.testing import ScriptedModel

SETTINGS: dict[str, Any] = {
    "memory": {"index": "exact", "embedder": "hashing", "min_score": 0.05},
    "plugins": {"auto": False},
}


@agentkd.tool
def find_order(email: str) -> list[str]:
    """List the orders placed with this e-mail address."""
    return [f"A-17 of {email}"]


@agentkd.tool
def open_ticket(topic: str) -> str:
    """Open a ticket for the support team."""
    return f"ticket on {topic}"


def test_opening_is_cheap_and_makes_nothing_but_the_folder(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path / "shop", settings=SETTINGS):
        pass
    assert list((tmp_path / "shop").iterdir()) == []


def test_create_writes_a_settings_file_that_loads_and_never_overwrites_one(tmp_path: Path) -> None:
    with agentkd.Workspace.create(tmp_path, suite="jsonl") as workspace:
        assert workspace.settings.cycle.suite == "jsonl"
    file = tmp_path / "agentkd.toml"
    file.write_text("# mine\n")
    with pytest.raises(ConfigError, match="exists already"):
        agentkd.Workspace.create(tmp_path)
    assert file.read_text() == "# mine\n"
    agentkd.Workspace.create(tmp_path, force=True).close()
    assert "[roles]" in file.read_text()


def test_two_workspaces_may_differ_in_their_plugins(tmp_path: Path) -> None:
    class Quiet:
        __name__ = "quiet"

        @agentkd.hookimpl
        def admit_memory(self, memory: object) -> bool:
            return False

    with agentkd.Workspace(tmp_path / "a", settings=SETTINGS, plugins=[Quiet()]) as one:
        with agentkd.Workspace(tmp_path / "b", settings=SETTINGS) as other:
            assert "quiet" in one.plugins
            assert "quiet" not in other.plugins


def test_a_run_is_kept_corrected_distilled_and_recalled(tmp_path: Path) -> None:
    call = ToolCall(name="find_order", arguments={"email": "ann@example.com"})
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        agent = shop.agent(tools=[find_order], model=ScriptedModel([call, "It is on its way."]))
        run = agent.run("Where is my parcel? I am ann@example.com.")
        assert run.answer == "It is on its way."
        assert run.steps[0].results[0].content == json.dumps(["A-17 of ann@example.com"])
        assert shop.ledger.trajectories.get(run.id).answer == run.answer
        with pytest.raises(DataError, match="needs a text, a call or an answer"):
            shop.correct(run)
        with pytest.raises(DataError, match="has no step 7"):
            shop.correct(run, "Say it.", step=7)
        correction = shop.correct(run, "Say the number of the order when a customer asks for a parcel.")
        assert shop.distill().output["stored"] >= 1
        hits = shop.memory.recall("A customer asks where the parcel is")
        assert any("number of the order" in hit.memory.content for hit in hits)
        down = shop.lineage(hits[0].memory.id)["down"]
        assert {run.id, correction.id} <= {node.id for node in down.nodes}
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as again:
        assert again.memory.recall("A customer asks where the parcel is")


def test_what_ann_prefers_is_not_recalled_for_bob(tmp_path: Path) -> None:
    ann, bob = Scope(user="ann"), Scope(user="bob")
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        agent = shop.agent(tools=[find_order], model=ScriptedModel(["It is on its way."]), scope=ann)
        run = agent.run("Where is my parcel?")
        assert run.scope == ann
        told = {"text": "I prefer to hear the number of the order.", "kind": "preference", "source": "person"}
        shop.ledger.corrections.add(Correction(id="cor-1", trajectory_id=run.id, **told))
        shop.distill()
        found = {
            user: [hit.memory for hit in shop.memory.recall("Where is my parcel?", scope=user)]
            for user in (ann, bob)
        }
        [hers] = [memory for memory in found[ann] if memory.kind == "preference"]
        assert (hers.scope, hers.privacy) == (ann, "private")
        assert {memory.id for memory in found[ann]} - {memory.id for memory in found[bob]} == {hers.id}
        for user in (ann, bob):
            later = shop.agent(model=ScriptedModel(["Order A-17."]), scope=user).run("Where is my parcel?")
            assert (hers.id in later.recalled) is (user == ann)


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as workspace:
        with pytest.raises(NotFoundError, match="no cycle report"):
            workspace.report()
        with pytest.raises(NotFoundError, match="no dataset yet"):
            workspace.train()
        with pytest.raises(NotFoundError, match="student@9"):
            workspace.promote("student@9")
        with pytest.raises(ConfigError, match="no suite is set"):
            workspace.run()
        with pytest.raises(ConfigError, match="no model plays the role `judge`"):
            workspace.model("judge")
        with pytest.raises(ConfigError, match="at least 1"):
            workspace.cycle(rounds=0)


def test_closing_twice_is_safe_and_a_closed_workspace_opens_its_parts_again(tmp_path: Path) -> None:
    workspace = agentkd.Workspace(tmp_path, settings=SETTINGS)
    assert workspace.memory.recall("nothing is known yet") == []
    workspace.close()
    workspace.close()
    assert workspace.trajectories() == []
    workspace.close()


def test_what_cannot_be_closed_leaves_nothing_else_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ExactIndex) -> None:
        raise StoreError("the index refused to close")

    workspace = agentkd.Workspace(tmp_path, settings=SETTINGS)
    assert workspace.memory.recall("nothing is known yet") == []
    closed: list[str] = []
    for kind in (LexicalIndex, Ledger):

        def close(self: Any, really: Any = kind.close) -> None:
            closed.append(type(self).__name__)
            really(self)

        monkeypatch.setattr(kind, "close", close)
    monkeypatch.setattr(ExactIndex, "close", refuse)
    with pytest.raises(StoreError, match="refused to close"):
        workspace.close()
    assert closed == ["LexicalIndex", "Ledger"]


def test_a_thread_that_is_asked_the_same_again_gets_another_attempt(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        agent = shop.agent(model=ScriptedModel(["It is late.", "It is here."]))
        first, second = (agent.run("Where is my parcel?", thread_id="ann") for _ in range(2))
        assert (first.run_id, first.attempt, second.attempt) == (second.run_id, 0, 1)
        assert {run.answer for run in shop.trajectories(run_id=first.run_id)} == {
            "It is late.",
            "It is here.",
        }
        assert shop.correct(second, "Say the day.").trajectory_id == second.id


def test_attempts_of_a_thread_are_numbered_after_the_last_one(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        agent = shop.agent(model=ScriptedModel(["one", "two"]))
        third = agent.run("Where is my parcel?", thread_id="ann", attempt=2)
        assert agent.run("Where is my parcel?", thread_id="ann").attempt == third.attempt + 1


def test_who_goes_back_to_what_he_said_first_is_heard_again(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        run = shop.agent(model=ScriptedModel(["It is late."])).run("Where is my parcel?")
        for text in (
            "Say the day.",
            "Say the day.",
            "Actually, say the hour.",
            "Say the day.",
            "Say the day.",
        ):
            shop.correct(run, text)
        said = [correction.text for correction in shop.ledger.corrections.for_trajectory(run.id)]
        assert said == ["Say the day.", "Actually, say the hour.", "Say the day."]
        shop.distill()
        assert [m.content for m in shop.ledger.memories.list() if m.kind != "case"] == ["Say the day."]


@pytest.mark.parametrize(
    "task",
    ["Where is my parcel?", Task(id="t1", prompt="Where is my parcel?", tools=(find_order.spec,))],
    ids=["a request", "a task that names its tools"],
)
def test_a_correction_holds_a_call_that_can_be_made(tmp_path: Path, task: str | Task) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        run = shop.agent([find_order], model=ScriptedModel(["It is late."])).run(task)
        for wrong, said in (
            (
                {"name": "find_ordr", "arguments": {"email": "a@x.io"}},
                "no tool is called `find_ordr`.*mean",
            ),
            ({"name": "find_order", "arguments": {"email": 1}}, "email: 1 is not of type 'string'"),
            ({"name": "find_order", "arguments": {"mail": "a@x.io"}}, "does not fit its schema"),
            ({"tool": "find_order"}, "this is no tool call"),
        ):
            with pytest.raises(DataError, match=said):
                shop.correct(run, call=wrong)
        assert shop.ledger.corrections.list() == []
        right = {"name": "find_order", "arguments": {"email": "a@x.io"}}
        assert shop.correct(run, call=right).accepted == (ToolCall.model_validate(right),)


def test_a_request_is_stored_with_the_tools_of_its_agent_which_those_who_compile_it_do_not_have(
    tmp_path: Path,
) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        run = shop.agent([find_order], model=ScriptedModel(["It is late."])).run("Where is my parcel?")
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        assert shop.ledger.trajectories.get(run.id).task.tools == (find_order.spec,)
        assert tuple(tools_of(shop.parts)(shop.ledger.trajectories.get(run.id).task)) == (find_order.spec,)
        suite = Task(id="t1", suite="shop", prompt="Where is my parcel?")
        assert shop.agent([find_order], model=ScriptedModel(["Late."])).run(suite).task.tools == ()


def test_a_new_tool_of_an_agent_keeps_no_older_correction_of_the_same_request(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        for tools, email in (([find_order], "old@x.io"), ([find_order, open_ticket], "new@x.io")):
            run = shop.agent(tools, model=ScriptedModel(["It is late."])).run("Where is my parcel?")
            shop.correct(run, call={"name": "find_order", "arguments": {"email": email}}, step=0)
            shop.distill()
        shop.refine()
        cases = [memory for memory in shop.ledger.memories.list("active") if memory.kind == "case"]
        assert [case.calls[0].arguments for case in cases] == [{"email": "new@x.io"}]


def test_a_misspelt_tool_does_not_switch_the_human_check_off(tmp_path: Path) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as shop:
        with pytest.raises(ConfigError, match=r"`find_ordr`, which is no tool \(did you mean `find_order`"):
            shop.agent([find_order], interrupt_on=["find_ordr"])
        with pytest.raises(ConfigError, match=r"is the text 'find_order' \(give a list: \['find_order'\]"):
            shop.agent([find_order], interrupt_on="find_order")
        call = ToolCall(name="find_order", arguments={"email": "a@x.io"})
        asks = shop.agent(
            [find_order],
            model=ScriptedModel([call]),
            interrupt_on=(name for name in ["find_order"]),
        )
        assert isinstance(asks.run("Where is my parcel?"), PausedRun)
