"""Turns that share a request or ids of calls: nothing is dropped, and nobody's decision is made up."""

from __future__ import annotations

from typing import Any

import pytest
from graph_parts import Parts, Said, calls

pytest.importorskip("langchain", reason="the extra `langchain` is not installed")

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from agentkd.graph import AgentkdMiddleware, apply_decisions
from agentkd.graph.message import MARK, answers_of, situation
from agentkd.schema import Outcome, Trajectory

CONFIG: Any = {"configurable": {"thread_id": "t1"}}


@tool
def find(order: int) -> str:
    """Find an order."""
    return f"order {order}"


@tool
def refund(order: int) -> str:
    """Refund an order."""
    return f"refunded {order}"


def accepted(run: Trajectory) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for step in run.steps for call in step.accepted_calls]


@pytest.mark.parametrize("id_", ["call_0", ""])
def test_ids_that_begin_anew_with_each_reply_make_no_correction(parts: Parts, id_: str) -> None:
    replies = [calls(("find", {"order": 1}, id_)), calls(("find", {"order": 2}, id_)), "done"]
    agent = create_agent(Said(replies=replies), [find], middleware=[AgentkdMiddleware(parts)])
    agent.invoke({"messages": [HumanMessage("find 1, then 2")]}, CONFIG)
    (run,) = parts.ledger.trajectories.list()
    assert accepted(run) == [("find", {"order": 1}), ("find", {"order": 2})]
    assert [r.content for step in run.steps for r in step.results] == ["order 1", "order 2"]
    assert parts.ledger.corrections.list() == []


def test_calls_of_one_reply_that_share_an_id_are_told_apart_by_their_tool() -> None:
    reply = calls(("find", {"order": 1}, ""), ("refund", {"order": 1}, ""))
    told = [
        ToolMessage("refunded 1", name="refund", tool_call_id=""),
        ToolMessage("order 1", name="find", tool_call_id=""),
    ]
    assert answers_of([HumanMessage("q"), reply, *told])[id(reply)] == told[::-1]


def test_decisions_are_paired_with_calls_that_share_an_id(parts: Parts) -> None:
    reply = calls(("find", {"order": 1}, "x"), ("refund", {"order": 1}, "x"))
    decisions = [{"kind": "approve"}, {"kind": "reject", "reason": "no"}]
    kept, refused = apply_decisions(parts, [HumanMessage("q"), reply], decisions)
    first, second = kept.additional_kwargs[MARK]["reviewed"]
    assert (first["decision"]["kind"], second["decision"]["kind"]) == ("approve", "reject")
    assert isinstance(refused, ToolMessage)
    assert refused.name == "refund"


def test_an_agent_that_takes_over_is_recorded_too(parts: Parts) -> None:
    def agent(*replies: Any) -> Any:
        return create_agent(Said(replies=[*replies]), [find, refund], middleware=[AgentkdMiddleware(parts)])

    graph = StateGraph(MessagesState)
    graph.add_node("finder", agent(calls(("find", {"order": 1}, "a")), "found"))
    graph.add_node("refunder", agent(calls(("refund", {"order": 1}, "b")), "refunded"))
    graph.add_edge(START, "finder")
    graph.add_edge("finder", "refunder")
    graph.add_edge("refunder", END)
    compiled = graph.compile(checkpointer=InMemorySaver())
    state = compiled.invoke({"messages": [HumanMessage("refund order 1")]}, CONFIG)
    first, second = sorted(parts.ledger.trajectories.list(), key=lambda run: run.attempt)
    assert (accepted(first), first.answer) == ([("find", {"order": 1})], "found")
    assert accepted(second) == [("find", {"order": 1}), ("refund", {"order": 1})]
    assert (second.answer, second.run_id) == ("refunded", first.run_id)
    assert len(state["messages"]) == 7
    assert not parts.ledger.trajectories.unfinished()


def test_an_answer_that_is_made_anew_is_another_attempt_and_stored_once(parts: Parts) -> None:
    def grade(run: Trajectory) -> Outcome:
        return Outcome(success=run.answer == "right")

    agent = create_agent(
        Said(replies=["wrong, sk-proj-" + "a1B2" * 12, "right"]), [find],
        middleware=[AgentkdMiddleware(parts, grade=grade)], checkpointer=InMemorySaver(),
    )  # fmt: skip
    agent.invoke({"messages": [HumanMessage("q")]}, CONFIG)
    forks = [at for at in agent.get_state_history(CONFIG) if at.next and "before_agent" in at.next[0]]
    ends = [at for at in agent.get_state_history(CONFIG) if at.next and "after_agent" in at.next[0]]
    agent.invoke(None, forks[0].config)
    runs = sorted(parts.ledger.trajectories.list(), key=lambda run: run.attempt)
    assert [(run.attempt, run.success) for run in runs] == [(0, False), (1, True)]
    agent.invoke(None, ends[0].config)  # stores the first answer again, whose secret was redacted
    assert len(parts.ledger.trajectories.list()) == 2


def test_recall_for_a_later_step_asks_for_the_call_that_was_run() -> None:
    reply = AIMessage("", tool_calls=[{"name": "refund", "args": {"cents": 900}, "id": "c"}])
    text = "a note that a person replaced the call\n\nrefunded 90"
    marks = {"executed": {"name": "refund", "args": {"cents": 90}}, "n_chars": len("refunded 90")}
    answer = ToolMessage(text, tool_call_id="c", additional_kwargs={MARK: marks})
    asked = situation([HumanMessage("refund it"), reply, answer])
    assert asked == 'refund it\n{"name": "refund", "arguments": {"cents": 90}} -> refunded 90'
