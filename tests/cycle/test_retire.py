"""Certified retirement: a memory leaves the context only where its own requests are done without it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import agentkd
from agentkd.cycle.probe import PROBE_SPLIT, AsServed, Serving
from agentkd.cycle.retire import retire_phase
from agentkd.schema import Checkpoint, Example, Memory, Scope, memory_id, now

from .desk import COLOURS, N_HELD_OUT, N_TRAIN, NEVER, SETTINGS, WITH_MEMORY, Plugin

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


def test_notes_that_harm_beside_the_weights_leave_as_a_whole_and_only_then(
    desk_done: Path, tmp_path: Path
) -> None:
    """Each failed memory may be needed; what they do together to new requests is measured on its own."""
    for kept in ("", "blue"):
        folder = Path(shutil.copytree(desk_done, tmp_path / f"desk{kept}"))
        plugin = Plugin(kept=kept, notes_harm=True)
        with agentkd.Workspace(folder, settings=SETTINGS, plugins=[plugin]) as workspace:
            report = workspace.report()
            assert report.verdict is not None
            parts, name = workspace.parts, report.checkpoint
            found = retire_phase(parts, "harm", name, report.verdict, report.evaluations).output
            left = found["together"]
            assert left["is_harmful"]
            assert left["done_with"] == left["wins"] == 0
            assert left["losses"] == left["done_without"] >= 6
            failed = {c["memory_id"] for c in found["certificates"] if 2 * c["done"] < c["n"]}
            stays = {c["memory_id"] for c in found["certificates"] if not c["is_retired"]}
            by_words = {m.id: m.when_to_use for m in workspace.ledger.memories.get_many(failed)}
            assert len(failed) == N_TRAIN // 2
            assert [by_words[id_] for id_ in stays] == ([f"Stamp the {kept} form"] if kept else [])
            assert found["as_whole"] == len(failed) - len(stays)
            assert "what stays harms" in workspace.ledger.memories.events(memory_id=min(failed))[-1].reason
            without = workspace.settings.retire.model_copy(update={"alpha": 0.0})
            parts.settings = parts.settings.model_copy(update={"retire": without})
            off = retire_phase(parts, "harm", name, report.verdict, report.evaluations).output
            assert off["as_whole"] == off["together"]["n"] == 0
            assert off["failed"] == len(failed)


def test_what_stays_is_looked_at_as_new_requests_would_meet_it(desk: agentkd.Workspace) -> None:
    output = desk.report().phases[-1].output
    left = output["together"]
    assert left["n"] > 0
    assert (left["wins"], left["losses"]) == (N_TRAIN // 4, 0)  # some are done with notes only, none without
    assert not left["is_harmful"]
    assert output["as_whole"] == 0


def test_a_request_taken_for_a_new_one_is_not_shown_what_rests_on_it(desk: agentkd.Workspace) -> None:
    request = "Stamp the red form"
    hits = desk.memory.recall(request, 5, scope=SCOPE)
    assert hits[0].memory.when_to_use == request
    own, second = hits[0].memory.id, hits[1].memory.id
    serving = Serving(desk.memory, AsServed(retired={second}, own={request: frozenset({own})}))

    def shown(state: str) -> set[str]:
        return {hit.memory.id for hit in serving.recall(state, 4, scope=SCOPE)}

    assert shown(request) == {
        hit.memory.id for hit in hits[2:]
    }  # its place is filled, a retired one's is not
    assert own not in shown(f"{request}\nstamp(form=red) -> done")  # before a later turn
    assert own in shown("Stamp the red forms")


def test_a_retirement_that_is_done_again_after_a_kill_comes_to_the_same_end(
    desk_done: Path, tmp_path: Path
) -> None:
    """What is retired already is not seen by a recall: it must not hide what harms from the second look."""
    folder = Path(shutil.copytree(desk_done, tmp_path / "desk"))
    with agentkd.Workspace(folder, settings=SETTINGS, plugins=[Plugin(notes_harm=True)]) as workspace:
        report = workspace.report()
        assert report.verdict is not None
        once, again = (
            retire_phase(
                workspace.parts, "harm", report.checkpoint, report.verdict, report.evaluations
            ).output
            for _ in range(2)
        )
        assert once["as_whole"] > 0
        for name in ("certificates", "together", "as_whole", "retired", "compiled", "tokens_after"):
            assert again[name] == once[name]


@pytest.mark.parametrize("least", [10_000, 0])
def test_a_student_promoted_by_hand_gets_its_certificates_from_the_next_cycle(
    desk: agentkd.Workspace, least: int
) -> None:
    """With or without a candidate of that cycle, and once."""
    known = desk.ledger.checkpoints.serving()
    assert known is not None
    shutil.copytree(desk.root / "checkpoints" / known.name, desk.root / "checkpoints" / "student@2")
    changes = {"name": "student@2", "status": "candidate", "created_at": now()}
    desk.ledger.checkpoints.add(known.model_copy(update=changes))
    desk.promote("student@2", force=True)
    settings = desk.settings.cycle.model_copy(update={"min_new_memories": least})
    desk.parts.settings = desk.settings.model_copy(update={"cycle": settings})
    report = desk.cycle()
    assert report.verdict is None if least else report.verdict and not report.verdict.promote
    output = report.phases[-1].output
    assert (report.phases[-1].name, output["checkpoint"]) == ("retire", "student@2")
    assert len(output["tokens_before"]) == len(output["tokens_after"]) == N_HELD_OUT
    retired = {each["memory_id"] for each in output["certificates"] if each["is_retired"]}
    assert len(retired) == output["retired"] > 0
    for name, are_there in (("student@2", False), ("base", True)):
        hits = desk.memory.recall("Stamp the red form", 4, scope=SCOPE, checkpoint=name)
        assert bool(retired & {hit.memory.id for hit in hits}) is are_there
    assert not desk.recompute().differing
    names = [phase.name for phase in desk.cycle().phases if phase.output.get("certificates")]
    assert not names


def test_what_comes_in_while_rows_are_compiled_is_new_to_their_student(cycled: Path) -> None:
    class Busy:
        """A person who admits a memory while the first row is written."""

        late: tuple[str, ...] = ()

        @agentkd.hookimpl
        def admit_example(self, example: Example) -> None:
            if not self.late:
                self.late = tuple(a.memory_id for a in workspace.memory.admit([LATE]))

    busy = Busy()
    with agentkd.Workspace(cycled, settings={"compile": {"dev_share": 0.4}}, plugins=[busy]) as workspace:
        card = workspace.compile("jsonl")
        base = workspace.parts.student_files
        student = Checkpoint(
            name="student@9-late", base=base.source, base_id=base.base_id, dataset_id=card.id
        )
        workspace.ledger.checkpoints.add(student)
        assert busy.late
        assert set(busy.late) <= (workspace.ledger.memories.new_to(student.name) or set())


LATE = Memory(
    id=memory_id("insight", "the office moves", "Ask for the new address.", Scope(app="jsonl")),
    kind="insight", when_to_use="the office moves", content="Ask for the new address.",
    scope=Scope(app="jsonl"),
)  # fmt: skip
