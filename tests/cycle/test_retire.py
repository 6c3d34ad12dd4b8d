"""Certified retirement: a memory leaves the context only where its own requests are done without it."""

from __future__ import annotations

import time

import agentkd
from agentkd.cycle.probe import PROBE_SPLIT
from agentkd.cycle.retire import retire_phase
from agentkd.schema import Scope

from .desk import COLOURS, N_TRAIN, NEVER, WITH_MEMORY

SCOPE = Scope(app="desk")


def recalled(desk: agentkd.Workspace, colour: str, checkpoint: str) -> set[str]:
    hits = desk.memory.recall(f"Stamp the {colour} form", 4, scope=SCOPE, checkpoint=checkpoint)
    return {hit.memory.when_to_use for hit in hits}


def test_each_memory_is_judged_by_its_own_requests(desk: agentkd.Workspace) -> None:
    report = desk.report()
    assert report.verdict is not None
    assert report.verdict.promote
    output = report.phases[-1].output
    memories = {m.id: m for m in desk.ledger.memories.list(kinds=["case"])}
    verdicts = {memories[c["memory_id"]].when_to_use: c for c in output["certificates"]}
    assert len(verdicts) == N_TRAIN
    for number, colour in enumerate(COLOURS):
        verdict = verdicts[f"Stamp the {colour} form"]
        passes = number % 4 not in (NEVER, WITH_MEMORY) and colour != "grey"
        assert verdict["is_retired"] is passes, colour
        assert verdict["n"] == 1
    assert verdicts["Stamp the blue form"]["done"] == 0
    assert "kept by" in verdicts["Stamp the grey form"]["reason"]
    assert output["retired"] + output["compiled"] == N_TRAIN
    assert output["tokens_saved"] > 0
    page = desk.report_path().read_text(encoding="utf-8")
    assert "prompt tokens saved per held-out task" in page


def test_the_verdict_is_in_the_ledger_and_holds_for_that_checkpoint_alone(desk: agentkd.Workspace) -> None:
    name = desk.report().checkpoint
    for memory in desk.ledger.memories.list(checkpoint=name, kinds=["case"]):
        event = desk.ledger.memories.events(memory_id=memory.id)[-1]
        assert event.details["certificate"]["is_retired"] is (memory.status == "retired")
        assert "probes done" in event.reason
    assert "Stamp the red form" not in recalled(desk, "red", name)
    assert "Stamp the blue form" in recalled(desk, "blue", name)  # it failed: it stays in the context
    assert "Stamp the red form" in recalled(desk, "red", "base")
    assert "Stamp the red form" in recalled(desk, "red", "student@9-other")


def test_a_roll_back_takes_less_than_a_second_and_the_next_recall_has_the_memories_again(
    desk: agentkd.Workspace,
) -> None:
    serving = desk.parts.resolve("student").removeprefix("agentkd/")
    assert "Stamp the red form" not in recalled(desk, "red", serving)
    started = time.perf_counter()
    desk.rollback()
    assert time.perf_counter() - started < 1.0
    assert "Stamp the red form" in recalled(desk, "red", desk.parts.resolve("student"))


def test_replays_teach_nothing(desk: agentkd.Workspace) -> None:
    replays = desk.trajectories(split=PROBE_SPLIT)
    assert {t.task.id for t in replays} == {f"train-{i}" for i in range(N_TRAIN)}
    ids = {t.id for t in replays}
    assert not [c for c in desk.ledger.corrections.list() if c.trajectory_id in ids]
    assert all(m.utility.recalls <= 1 for m in desk.ledger.memories.list())
    assert not {r.trajectory_id for r in desk.ledger.memories.recalls()} & ids


def test_a_memory_without_requests_stays_and_nothing_is_run_twice(desk: agentkd.Workspace) -> None:
    report, parts = desk.report(), desk.parts
    assert report.verdict is not None
    key = report.phases[-1].key
    before = desk.ledger.counts()
    again = retire_phase(parts, key, report.checkpoint, report.verdict, report.evaluations)
    counts = desk.ledger.counts()
    assert counts["trajectories"] == before["trajectories"]
    assert again.output["tokens_saved"] == report.phases[-1].output["tokens_saved"]
    desk.parts.settings = desk.settings.model_copy(
        update={"retire": desk.settings.retire.model_copy(update={"probes": 0})}
    )
    none = retire_phase(parts, "other", report.checkpoint, report.verdict, report.evaluations)
    assert none.output["retired"] == 0
    assert none.output["without_probes"] == N_TRAIN
