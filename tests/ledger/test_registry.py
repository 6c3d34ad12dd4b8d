"""Datasets, checkpoints, evaluations, cycles and model calls."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentkd.errors import CheckpointError, DataError, NotFoundError
from agentkd.ledger import Ledger
from agentkd.schema import CycleReport, PhaseReport, Provenance, Usage, now

Make = Any


@pytest.fixture
def trained(ledger: Ledger, make: Make) -> Ledger:
    """A ledger with three checkpoints."""
    ledger.datasets.add(make.card(), [])
    for number in (1, 2, 3):
        ledger.checkpoints.add(make.checkpoint(number))
    return ledger


def name(number: int) -> str:
    return f"student@{number}-{number:08x}"


def statuses(ledger: Ledger) -> list[str]:
    return [checkpoint.status for checkpoint in ledger.checkpoints.list()]


def test_a_dataset_keeps_where_each_row_comes_from(ledger: Ledger, make: Make) -> None:
    ledger.trajectories.finish(make.trajectory(1))
    rows = [make.example(i, f"task-{i}", trajectories=("trj-1",)) for i in range(1200)]
    for _ in range(2):
        ledger.datasets.add(make.card(), iter(rows[:1100]))
        ledger.datasets.add(make.card(), rows[1100:], split="dev")
    assert ledger.counts()["dataset_rows"] == 1200
    train, dev = ledger.datasets.rows("ds-1", "train"), ledger.datasets.rows("ds-1", "dev")
    assert [row.example_id for row in train] == [f"ex-{i}" for i in range(1100)]
    assert (len(dev), dev[0].position) == (100, 0)
    assert train[7].provenance == Provenance(trajectories=("trj-1",))
    assert len(ledger.datasets.tasks_of("ds-1")) == 1200
    assert "task-1150" in ledger.datasets.tasks_of("ds-1", "dev") - ledger.datasets.tasks_of("ds-1", "train")
    assert ledger.datasets.list() == [ledger.datasets.get("ds-1")] == [make.card()]
    with pytest.raises(NotFoundError):
        ledger.datasets.get("ds-9")


def test_a_dataset_with_an_unknown_source_is_not_stored_at_all(ledger: Ledger, make: Make) -> None:
    with pytest.raises(DataError, match=r"`ex-2` rests on `mem-none`"):
        ledger.datasets.add(make.card(), [make.example(1), make.example(2, memories=("mem-none",))])
    assert ledger.counts()["datasets"] == ledger.counts()["dataset_rows"] == 0


def test_checkpoints_are_numbered_and_stored_once(trained: Ledger, make: Make) -> None:
    assert trained.checkpoints.next_number() == 4
    assert not trained.checkpoints.add(make.checkpoint(1))
    assert trained.checkpoints.names() == (name(1), name(2), name(3))
    assert trained.checkpoints.get(name(2)) == make.checkpoint(2).model_copy(
        update={"created_at": trained.checkpoints.get(name(2)).created_at}
    )
    assert trained.checkpoints.list(status="serving") == []
    with pytest.raises(DataError, match="`nameless`"):
        trained.checkpoints.add(make.checkpoint(4).model_copy(update={"name": "nameless"}))
    with pytest.raises(DataError, match="does not hold"):
        trained.checkpoints.add(make.checkpoint(4, "ds-9"))
    with pytest.raises(NotFoundError):
        trained.checkpoints.get(name(4))


def test_promotion_and_rollback_walk_the_same_way(trained: Ledger) -> None:
    checkpoints = trained.checkpoints
    assert checkpoints.serving() is None
    for number in (1, 2):
        assert checkpoints.promote(name(number), "better")
        assert not checkpoints.promote(name(number))
    assert statuses(trained) == ["previous", "serving", "candidate"]
    assert checkpoints.rollback("worse in use") == (name(2), name(1))
    assert statuses(trained) == ["serving", "previous", "candidate"]
    assert checkpoints.promote(name(3))
    assert checkpoints.rollback() == (name(3), name(1))
    assert checkpoints.rollback() == (name(1), "base")
    assert checkpoints.serving() is None
    with pytest.raises(NotFoundError, match="base model serves"):
        checkpoints.rollback()
    actions = [event.action for event in checkpoints.history()]
    assert actions == ["promote", "promote", "rollback", "promote", "rollback", "rollback"]
    assert checkpoints.history()[2].reason == "worse in use"


def test_a_gate_sets_a_status_but_never_what_serves(trained: Ledger) -> None:
    trained.checkpoints.set_status(name(1), "rejected")
    assert statuses(trained)[0] == "rejected"
    with pytest.raises(DataError, match="promote"):
        trained.checkpoints.set_status(name(1), "serving")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        trained.checkpoints.promote(name(9))


def test_a_rollback_passes_over_tainted_checkpoints(trained: Ledger) -> None:
    for number in (1, 2, 3):
        trained.checkpoints.promote(name(number))
    trained.checkpoints.set_status(name(2), "tainted")
    assert trained.checkpoints.rollback() == (name(3), name(1))
    assert statuses(trained) == ["serving", "tainted", "previous"]
    with pytest.raises(CheckpointError, match="revoked"):
        trained.checkpoints.promote(name(2))
    assert trained.checkpoints.promote(name(2), force=True)


def test_what_serves_after_roll_backs_is_not_withdrawn(trained: Ledger) -> None:
    for number in (1, 2, 1):
        trained.checkpoints.promote(name(number))
    trained.checkpoints.rollback()
    assert trained.checkpoints.withdrawn() == {name(1)}
    assert trained.checkpoints.rollback() == (name(2), name(1))
    assert trained.checkpoints.withdrawn() == {name(2)}


def test_revoking_a_memory_taints_what_was_trained_on_it(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.datasets.add(make.card("ds-2"), [])
    ledger.checkpoints.add(make.checkpoint(2, "ds-2", parent=name(1)))
    ledger.checkpoints.add(make.checkpoint(3, "ds-2"))
    ledger.memories.set_status(memory.id, "revoked", "it was poisoned")
    assert statuses(ledger) == ["tainted", "tainted", "candidate"]
    serving = ledger.checkpoints.serving()
    assert serving is not None
    assert serving.status == "tainted"
    assert ledger.checkpoints.rollback() == (name(1), "base")


def test_evaluations_are_found_by_what_they_judged(ledger: Ledger, make: Make) -> None:
    assert ledger.evaluations.add(make.evaluation("evl-1", "student@1-a"))
    assert not ledger.evaluations.add(make.evaluation("evl-1", "student@1-a"))
    ledger.evaluations.add(make.evaluation("evl-2"))
    assert [e.id for e in ledger.evaluations.list()] == ["evl-1", "evl-2"]
    assert ledger.evaluations.list(checkpoint="student@1-a", suite="shop", split="holdout") == [
        ledger.evaluations.get("evl-1")
    ]
    with pytest.raises(NotFoundError):
        ledger.evaluations.get("evl-9")


def test_a_cycle_is_gone_on_with_until_it_is_finished(ledger: Ledger) -> None:
    cycles = ledger.cycles
    assert cycles.next_number() == 1
    report = CycleReport(id="cycle-1", number=1, suite="shop")
    assert cycles.begin_cycle(report)
    assert not cycles.begin_cycle(report)
    assert cycles.unfinished() == report
    finished = report.model_copy(update={"serving": "student@1-a"})
    cycles.finish_cycle(finished)
    assert cycles.unfinished() is None
    assert cycles.get("cycle-1") == finished
    assert cycles.list(status="done") == cycles.list() == [finished]
    assert cycles.next_number() == 2
    with pytest.raises(NotFoundError):
        cycles.get("cycle-2")


def test_a_phase_is_found_by_its_key_once_it_is_done(ledger: Ledger) -> None:
    cycles = ledger.cycles
    assert cycles.phase_start("pha-1", "run", "cycle-1") is None
    assert cycles.find_phase("pha-1") is None
    failed = PhaseReport(name="run", key="pha-1", status="failed")
    cycles.phase_done(failed, "cycle-1")
    assert cycles.find_phase("pha-1") is None
    assert cycles.phase_start("pha-1", "run", "cycle-1") is None
    done = PhaseReport(name="run", key="pha-1", status="done", output={"n": 3})
    cycles.phase_done(done, "cycle-1")
    cycles.phase_done(failed, "cycle-1")
    assert cycles.find_phase("pha-1") == cycles.phase_start("pha-1", "run", "cycle-1") == done
    assert cycles.find_phase("pha-1", "train") is None
    assert cycles.phases("cycle-1") == (done,)
    assert cycles.phases() == ()


def test_model_calls_are_booked_and_an_unknown_price_stays_visible(ledger: Ledger) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=2, usd=0.5, seconds=1.5)
    ledger.calls.book("distill", "m", usage, run_id="run-1")
    ledger.calls.book("distill", "m", Usage(prompt_tokens=5), ok=False, error="Bearer abcdefghijklmnopqrstuv")
    ledger.calls.book("run", "m", usage)
    total = ledger.calls.total("distill")
    assert (total.calls, total.failed, total.prompt_tokens, total.usd, total.n_unpriced) == (2, 1, 15, 0.5, 1)
    assert ledger.calls.total(run_id="run-1").seconds == 1.5
    assert ledger.calls.total(since=now() + timedelta(hours=1)).calls == 0
    assert {purpose: spend.calls for purpose, spend in ledger.calls.by_purpose().items()} == {
        "distill": 2, "run": 1,
    }  # fmt: skip
    assert "model_calls" not in ledger.counts()
