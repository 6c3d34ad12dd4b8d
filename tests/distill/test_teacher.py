"""All distillers that use a model, driven by a scripted teacher whose replies are a recorded file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import agentkd
from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd.schema import Correction, Message, Step, ToolCall, ToolResult, ToolSpec, Trajectory
from agentkd.testing import FakeSuite

REPLIES = Path(__file__).with_name("replies") / "all.jsonl"
ALL = ["success", "failure", "contrast", "correction", "strategy", "tool-notes"]


def book(people):
    return ToolCall(name="book", arguments={"people": people})


FIND = ToolCall(name="find", arguments={})
SUITE = FakeSuite(
    {"train": [(f"Book a table for {n} people", book(n)) for n in (2, 3, 4, 5)]},
    tools=[ToolSpec(name="book"), ToolSpec(name="find")],
    name="shop",
)


@hookimpl
def components():
    return [Component("suite", "shop", "Tables.", lambda settings, kit: SUITE)]


def run_of(name, number, call):
    error = "" if call.name == "book" else "the book of tables is closed"
    reply = Message(role="assistant", tool_calls=(call,), origin="model")
    result = ToolResult(content="" if error else "done", error=error)
    step = Step(index=0, reply=reply, accepted_calls=(call,), results=(result,))
    run = Trajectory(id=name, run_id="r", task=SUITE.tasks("train")[number], steps=(step,))
    return run.model_copy(update={"outcome": SUITE.grade(run)})


RUNS = [
    run_of("two-done", 0, book(2)),
    run_of("two-failed", 0, FIND),
    run_of("three", 1, FIND),
    run_of("four", 2, FIND),
    run_of("five", 3, FIND),
]
CORRECTIONS = [
    Correction(
        id="cor-1", trajectory_id="four", step=0, text="Book it, do not look.", proposed=(FIND,),
        accepted=(book(4),),
    ),
    Correction(id="cor-2", trajectory_id="four", text="And I sit always by the window."),
]  # fmt: skip


@pytest.fixture
def distilled(tmp_path):
    settings = {
        "roles": {"distiller": "scripted:teacher", "actor": "scripted:actor"},
        "model": {"scripted": {"replies": str(REPLIES)}},
        "distill": {"distillers": ALL, "max_memories_per_trajectory": 9},
        "distiller": {"strategy": {"similar_above": 0.3}, "tool-notes": {"min_calls": 4}},
        "memory": {"index": "exact", "embedder": "hashing"},
    }
    plugin = SimpleNamespace(components=components, __name__="shop-plugin")
    with agentkd.Workspace(tmp_path, settings=settings, plugins=[plugin]) as workspace:
        for run in RUNS:
            workspace.ledger.trajectories.finish(run)
        for correction in CORRECTIONS:
            workspace.ledger.corrections.add(correction)
        report = workspace.distill()
        memories = {m.content: m for m in workspace.ledger.memories.list()}
        yield report, memories


def test_every_distiller_stores_what_holds_and_refuses_what_does_not(distilled):
    report, memories = distilled
    origins = Counter(memory.origin for memory in memories.values())
    assert origins == {
        "success": 1, "failure": 1, "contrast": 1, "correction": 2, "strategy": 1, "tool-notes": 1,
    }  # fmt: skip
    assert report.output["failures"] == 2  # two answers that were no JSON even after the repair
    refused = {k.removeprefix("refused: "): n for k, n in report.output.items() if k.startswith("refused: ")}
    assert refused == {"quote-not-found": 1, "claim-failed": 1, "no-gain": 1}
    assert report.output["refused"] == 3
    assert "3 lessons refused" in report.summary
    assert report.output["contrast: hard pairs"] == 1
    assert report.output["strategy: scenarios"] == 1


def test_each_memory_is_what_the_record_and_the_replay_allow(distilled):
    _, memories = distilled
    held = memories["Do not look around first: the first call ends the task."]
    assert (held.kind, held.extras) == ("pitfall", {"replayed": True})
    assert memories["Book at once; looking around first ends the task."].kind == "contrast"
    preference = memories["Tables are always by the window."]
    assert (preference.kind, preference.evidence.spans[0].origin) == ("preference", "person")
    strategy = memories["Call `book` at once with the number of people."]
    assert strategy.extras["tried"] == {"probes": 3, "without": 0, "with": 3}
    assert memories["`find` ends the task: book instead."].kind == "tool-note"
    assert all(memory.evidence.spans for memory in memories.values())
    assert all(
        span.origin not in ("memory", "system")
        for memory in memories.values()
        for span in memory.evidence.spans
    )
