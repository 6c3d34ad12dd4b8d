"""An agent recalls, thinks and acts, writes down what happened, and breaks off as data."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from agent_parts import Build, OneCall, Recalls, add, call, memory

import agentkd
from agentkd import hookimpl
from agentkd.agents import Acted, Finished, Recalled, Replied, Started
from agentkd.errors import BudgetError, ModelError, PluginError
from agentkd.ledger import Ledger
from agentkd.models.scripted import ScriptedModel
from agentkd.plugins import PluginHost
from agentkd.schema import Hit, Message, Reply, Scope, Step, Task, ToolCall, Trajectory, Usage


def test_a_run_calls_tools_until_it_answers(build: Build, ledger: Ledger) -> None:
    agent = build([call("add", a=1, b=2), call("add", a=3, b=4), "It is 7."])
    run = agent.run("What is 1 + 2 + 4?")
    assert run.answer == "It is 7."
    assert run.failure is None
    assert [step.index for step in run.steps] == [0, 1, 2]
    assert [[r.content for r in step.results] for step in run.steps] == [["3"], ["7"], []]
    assert [m.role for m in run.messages] == [
        "system", "user", "assistant", "tool", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert run.usage.completion_tokens == sum(step.usage.completion_tokens for step in run.steps) > 0
    assert ledger.trajectories.get(run.id) == run
    assert ledger.counts()["steps"] == 3


def test_an_answer_without_a_call_ends_the_run(build: Build) -> None:
    run = build(["Hello."]).run("Hi")
    assert (run.answer, len(run.steps), run.task.suite) == ("Hello.", 1, "adhoc")


def test_the_world_ends_a_task(build: Build) -> None:
    run = build([call("add", a=1, b=1)], world=lambda task: OneCall([add])).run("1 + 1")
    assert run.failure is None
    assert len(run.steps) == 1
    assert run.answer == ""


def test_too_many_steps_are_a_failure(build: Build) -> None:
    agent = build(lambda messages, tools: call("add", a=1, b=1), agent={"max_steps": 3})
    run = agent.run("Go on for ever")
    assert run.failure is not None
    assert run.failure.kind == "limit"
    assert len(run.steps) == 3


def test_a_tool_that_fails_is_told_to_the_model(build: Build) -> None:
    model = ScriptedModel([call("add", a="x", b=1), call("nothing"), "Sorry."])
    run = build(model).run("Add x and 1")
    assert "wrong arguments" in model.calls[1].messages[-1].content
    assert "no tool is called `nothing`" in model.calls[2].messages[-1].content
    assert run.answer == "Sorry."


def test_a_model_error_is_data_and_a_met_ceiling_is_not(build: Build, ledger: Ledger) -> None:
    run = build([call("add", a=1, b=1), ModelError("model `x` cannot be reached", hint="start it")]).run("?")
    assert run.failure is not None
    assert (run.failure.kind, len(run.steps)) == ("model", 1)
    assert run.failure.message == "model `x` cannot be reached (start it)"
    assert ledger.trajectories.get(run.id).failure == run.failure
    with pytest.raises(BudgetError):
        build([BudgetError("enough")]).run("?")


def test_a_broken_world_is_a_failure_of_the_run(build: Build) -> None:
    class Broken(OneCall):
        def call(self, call: ToolCall) -> Any:
            raise RuntimeError("the lights went out")

    def no_world(task: Task) -> Any:
        raise RuntimeError("no world today")

    for world, said in ((lambda task: Broken([add]), "the lights went out"), (no_world, "no world today")):
        run = build([call("add", a=1, b=1)], world=world).run("?")
        assert run.failure is not None
        assert run.failure.kind == "environment"
        assert said in run.failure.message


def test_every_world_is_closed_once(build: Build) -> None:
    closed: list[str] = []

    class World(OneCall):
        def close(self) -> None:
            closed.append("closed")

    build([call("add", a=1, b=1)], world=lambda task: World([add])).run("?")
    build([ModelError("gone")], world=lambda task: World([add])).run("?")
    stream = build([call("add", a=1, b=1)], world=lambda task: World([add])).stream("?")
    while not isinstance(next(stream), Replied):
        pass
    stream.close()  # type: ignore[attr-defined]
    assert closed == ["closed"] * 3


def test_the_stream_tells_each_thing_when_it_happens(build: Build) -> None:
    recaller = Recalls([])
    events = list(build([call("add", a=1, b=2), "3"], recaller=recaller).stream("1 + 2"))
    assert [type(event) for event in events] == [Started, Replied, Acted, Replied, Acted, Finished]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.trajectory.answer == "3"


def test_arun_leaves_the_event_loop_free(build: Build) -> None:
    async def both() -> tuple[Trajectory, Trajectory]:
        agent = build(lambda messages, tools: "hi " + messages[-1].content)
        return await asyncio.gather(agent.arun("a"), agent.arun("b"))

    assert [run.answer for run in asyncio.run(both())] == ["hi Request: a", "hi Request: b"]


def test_memories_are_recalled_before_every_turn_and_never_twice(build: Build, ledger: Ledger) -> None:
    notes = [memory(text) for text in ("one", "two", "three")]
    ledger.memories.admit(notes)
    recaller = Recalls(notes)
    model = ScriptedModel([call("add", a=1, b=2), call("add", a=3, b=3), "6"])
    scope = Scope(app="shop")
    agent = build(model, recaller=recaller, scope=scope, checkpoint="student@1-aa")
    run = agent.run("1 + 2 + 3")
    assert model.calls[0].messages[1].content == "Lessons:\n- one\n- two\n\nRequest: 1 + 2 + 3"
    assert model.calls[1].messages[1] == model.calls[0].messages[1]
    assert model.calls[1].messages[-1].content == "Lessons:\n- three\n\n3"
    assert model.calls[2].messages[-1].content == "6"
    assert [step.recalled for step in run.steps] == [(notes[0].id, notes[1].id), (notes[2].id,), ()]
    assert run.steps[0].results[0].content == "3"
    assert recaller.asked[0]["checkpoint"] == "student@1-aa"
    assert recaller.asked[0]["scope"] == scope
    assert recaller.asked[1]["state"] == '1 + 2 + 3\n{"name": "add", "arguments": {"a": 1, "b": 2}} -> 3'
    assert {r.memory_id for r in ledger.memories.recalls(trajectory_id=run.id)} == {m.id for m in notes}
    assert run.messages[:-1] == model.calls[2].messages


def test_a_memory_that_the_notes_have_no_room_for_was_not_shown(tmp_path: Path) -> None:
    settings = {
        "memory": {
            "index": "exact", "embedder": "hashing", "min_score": 0.05, "trial_share": 0.0,
            "max_rendered_chars": 250,
        },
        "plugins": {"auto": False},
    }  # fmt: skip
    notes = [memory(f"one tea of number {number}: {'x' * 100}") for number in range(3)]
    with agentkd.Workspace(tmp_path, settings=settings) as shop:
        shop.memory.admit([each.model_copy(update={"when_to_use": "one asks for tea"}) for each in notes])
        assert len(shop.memory.recall("one asks for tea")) == 3
        model = ScriptedModel([call("add", a=1, b=2), "3"])
        events = list(shop.agent(tools=[add], model=model).stream("one asks for tea"))
        [run] = shop.trajectories()
        seen = ["".join(message.content for message in asked.messages) for asked in model.calls]
        for step, told in zip(run.steps, seen, strict=True):
            assert len(step.recalled) == 1
            assert shop.ledger.memories.get(step.recalled[0]).content in told
        assert run.steps[0].recalled != run.steps[1].recalled  # what had no room may come later
        assert [r.memory_id for r in shop.ledger.memories.recalls()] == list(run.recalled)
        assert [len(event.hits) for event in events if isinstance(event, Recalled)] == [1, 1]


def test_recall_can_be_once_or_never(build: Build) -> None:
    for mode, expected in (("start", 1), ("off", 0)):
        recaller = Recalls([])
        build([call("add", a=1, b=2), "3"], recaller=recaller, agent={"recall": mode}).run("?")
        assert len(recaller.asked) == expected


def test_recalls_of_held_out_tasks_are_not_counted(build: Build, ledger: Ledger) -> None:
    note = memory("one")
    ledger.memories.admit([note])
    run = build(["hm"], recaller=Recalls([note])).run(Task(id="t", split="holdout-unseen", prompt="?"))
    assert run.steps[0].recalled == (note.id,)
    assert ledger.memories.recalls(trajectory_id=run.id) == ()


def test_plugins_rank_veto_and_notice(build: Build, host: PluginHost, ledger: Ledger) -> None:
    notes = [memory("one"), memory("two")]
    ledger.memories.admit(notes)
    seen: list[Any] = []

    class Plugin:
        @hookimpl
        def rank_recalled(self, hits: Sequence[Hit]) -> list[Hit]:
            stranger = hits[0].model_copy(update={"memory": memory("stranger")})
            return [stranger, *reversed(hits)]

        @hookimpl
        def before_run(self, task: Task) -> bool | None:
            return "card" not in task.prompt or None if "card" not in task.prompt else False

        @hookimpl
        def after_step(self, trajectory: Trajectory, step: Step) -> None:
            assert ledger.trajectories.get(trajectory.id).steps[step.index] == step
            seen.append(step.index)

        @hookimpl
        def after_run(self, trajectory: Trajectory) -> None:
            seen.append(ledger.trajectories.get(trajectory.id).id)

    host.add(Plugin(), "picky")
    run = build(["a"], recaller=Recalls(notes)).run("?")
    assert run.steps[0].recalled == (notes[1].id, notes[0].id)
    assert seen == [0, run.id]
    refused = build(["a"]).run("my card number")
    assert refused.failure is not None
    assert (refused.failure.kind, refused.failure.message) == ("cancelled", "refused by plugin `picky`")
    assert ledger.trajectories.get(refused.id).failure == refused.failure


def test_a_plugin_that_raises_is_named(build: Build, host: PluginHost, ledger: Ledger) -> None:
    class Plugin:
        @hookimpl
        def rank_recalled(self, hits: Sequence[Hit]) -> list[Hit]:
            raise RuntimeError("oops")

    host.add(Plugin(), "clumsy")
    with pytest.raises(PluginError, match="`clumsy`"):
        build(["a"], recaller=Recalls([memory("one")])).run("?")
    assert ledger.counts()["trajectories"] == 0


@pytest.mark.parametrize(
    ("docs", "is_student", "reads_tools", "expected"),
    [
        ("auto", False, False, True), ("auto", True, False, False), ("auto", False, True, False),
        ("all", True, True, True), ("none", False, False, False),
    ],
)  # fmt: skip
def test_a_student_gets_no_tool_docs(
    build: Build, docs: str, is_student: bool, reads_tools: bool, expected: bool
) -> None:
    model = ScriptedModel(["a"])
    model.reads_tools = reads_tools  # type: ignore[attr-defined]
    build(model, agent={"tool_docs": docs}, model_is_student=is_student).run("?")
    assert ("add(a: integer, b: integer): Add two numbers." in model.calls[0].messages[0].content) is expected
    assert [tool.name for tool in model.calls[0].tools] == ["add", "refund"]


def test_a_forced_call_is_asked_for(build: Build) -> None:
    model = ScriptedModel([call("add", a=1, b=1)])
    build(model, agent={"force_tool_call": True}, world=lambda task: OneCall([add])).run("?")
    assert model.calls[0].sampling == {"tool_choice": "required", "purpose": "run"}
    assert model.calls[0].messages[0].content.startswith("Reply with one tool call.")


def test_a_reply_with_two_calls_has_two_results(build: Build) -> None:
    both = Reply(
        text="", tool_calls=(call("add", a=1, b=1), call("add", a=2, b=2)), usage=Usage(usd=0.0), model="m@1"
    )
    run = build([both, "done"]).run("?")
    assert [r.content for r in run.steps[0].results] == ["2", "4"]
    assert run.model == "scripted"
    assert [m.role for m in run.messages[2:]] == ["assistant", "tool", "tool", "assistant"]


def test_the_same_run_is_stored_once(build: Build, ledger: Ledger) -> None:
    task = Task(id="t", prompt="?")
    first = build(["a"]).run(task, run_id="r")
    again = build(["a"]).run(task, run_id="r")
    other = build(["a"]).run(task, run_id="r", attempt=1)
    assert first.id == again.id != other.id
    assert ledger.counts()["trajectories"] == 2


def test_nothing_heavy_is_imported_before_an_agent_runs() -> None:
    code = (
        "import sys; from agentkd.agents import Agent, PromptBuilder;"
        "from agentkd.config import AgentSettings;"
        "from agentkd.models.scripted import ScriptedModel; from agentkd.tools import ToolBox;"
        "import agentkd.models.litellm, agentkd.models.provider, agentkd.models.booking, agentkd.skills;"
        "Agent('a', ScriptedModel(['x']), lambda t: ToolBox(), PromptBuilder(AgentSettings()));"
        "heavy = ('langgraph', 'litellm', 'torch', 'chromadb', 'langchain_core');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_history_is_shown_as_messages(build: Build) -> None:
    run = build([call("add", a=1, b=2), "3"]).run("?")
    assert run.messages[2] == Message(
        role="assistant", content='{"name": "add", "arguments": {"a": 1, "b": 2}}',
        tool_calls=(call("add", a=1, b=2),), origin="model",
    )  # fmt: skip
    assert run.messages[3] == Message(role="tool", content="3", name="add", origin="tool")
    assert Recalled(step=0, hits=()).kind == "recalled"
