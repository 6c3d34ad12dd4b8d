"""A tool that refuses is a teacher: the call that went through is the accepted one."""

from __future__ import annotations

from agentkd.agents.feedback import tool_corrections
from agentkd.schema import Message, Step, Task, ToolCall, ToolResult, Trajectory


def act(index: int, city: str, error: str = "", name: str = "weather") -> Step:
    call = ToolCall(name=name, arguments={"city": city})
    reply = Message(role="assistant", tool_calls=(call,), origin="model")
    result = ToolResult(error=error) if error else ToolResult(content="sunny")
    return Step(index=index, reply=reply, accepted_calls=(call,), results=(result,))


def run(*steps: Step, split: str = "train") -> Trajectory:
    task = Task(id="t", prompt="weather?", split=split)
    return Trajectory(id="tra-1", run_id="run-1", task=task, steps=steps)


def test_a_mended_call_corrects_the_refused_one() -> None:
    (found,) = tool_corrections(run(act(0, "Rom", "no such city"), act(1, "Rome")))
    assert found.source == "tool"
    assert found.step == 0
    assert found.text == "no such city"
    assert found.proposed[0].arguments == {"city": "Rom"}
    assert found.accepted[0].arguments == {"city": "Rome"}


def test_nothing_is_learnt_without_a_later_success_of_the_same_tool() -> None:
    assert not tool_corrections(run(act(0, "Rom", "no such city")))
    assert not tool_corrections(run(act(0, "Rom", "no such city"), act(1, "Rome", name="time")))
    assert not tool_corrections(run(act(0, "Rome", "busy"), act(1, "Rome")))
    assert not tool_corrections(run(act(0, "Rome"), act(1, "Oslo")))


def test_held_out_runs_give_no_corrections() -> None:
    assert not tool_corrections(run(act(0, "Rom", "no"), act(1, "Rome"), split="holdout"))
