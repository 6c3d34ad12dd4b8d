"""A person edits a waiting call: the training row holds the accepted call and nothing of the proposed one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.agents import Edit, PausedRun, Reject
from agentkd.compiler import read_examples
from agentkd.hf import load_tokenizer
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Example, Reply, ToolCall, Usage

PROPOSED = "PROPOSEDVALUE"
ACCEPTED = "ACCEPTEDVALUE"


@agentkd.tool(has_side_effects=True)
def pay(to: str, note: str) -> str:
    """Pay somebody."""
    return f"paid {to}"


def paying(to: str, words: str = "") -> Reply:
    call = ToolCall(name="pay", arguments={"to": to, "note": "thanks"})
    return Reply(text=words or f"I pay {to} now.", tool_calls=(call,), usage=Usage(usd=0.0))


def edit(to: str) -> Edit:
    return Edit(call=ToolCall(name="pay", arguments={"to": to, "note": "thanks"}), reason="the other account")


@pytest.fixture
def workspace(new_workspace: Callable[[str], Path]) -> Any:
    settings = {"cycle": {"suite": ""}, "compile": {"dev_share": 0.0}, "agent": {"max_steps": 8}}
    with agentkd.Workspace(new_workspace("live"), settings=settings) as opened:
        yield opened


def trained(example: Example, workspace: Any) -> str:
    """Return all that a student reads and is trained on, as text and as decoded tokens."""
    views = [m.model_dump_json() for m in (*example.student_view, *example.teacher_view, example.target)]
    ids = [*example.student.ids, *(example.teacher.ids if example.teacher else ())]
    tokenizer = load_tokenizer(workspace.parts.student_files.path)
    return "\n".join([*views, tokenizer.decode(ids)])


@pytest.mark.parametrize("form", ["ours", "langchain"])
def test_after_an_edit_the_row_holds_the_accepted_call(workspace: Any, form: str) -> None:
    decision: Any = edit(ACCEPTED)
    if form == "langchain":
        action = {"name": "pay", "args": {"to": ACCEPTED, "note": "thanks"}}
        decision = {"decisions": [{"type": "edit", "edited_action": action}]}
    model = ScriptedModel([paying(PROPOSED), paying("THIRD"), "All is paid."])
    agent = workspace.agent([pay], model=model, interrupt_on=["pay"])
    run = agent.run("Pay Ann for the flowers.")
    assert isinstance(run, PausedRun)
    again = agent.resume(run.thread_id, decision)
    assert isinstance(again, PausedRun)
    finished = agent.resume(again.thread_id, Reject(reason="Once is enough."))
    assert finished.answer == "All is paid."
    assert not any(PROPOSED in m.model_dump_json() for m in model.calls[1].messages)

    workspace.distill()
    card = workspace.compile()
    assert card.n_train >= 1
    examples = list(read_examples(workspace.root / "datasets" / card.id / "train.jsonl"))
    corrected = [e for e in examples if e.kind == "correction"]
    assert [e.target.tool_calls[0].arguments["to"] for e in corrected] == [ACCEPTED]
    assert [e.rejected.tool_calls[0].arguments["to"] for e in corrected if e.rejected] == [PROPOSED]
    texts = [trained(example, workspace) for example in examples]
    assert any(ACCEPTED in text for text in texts)
    assert not any(PROPOSED in text or "THIRD" in text for text in texts)
