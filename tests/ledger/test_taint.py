"""Taint follows what was revoked into rows, datasets and checkpoints, through merges and parents."""

from __future__ import annotations

from typing import Any

import pytest

from agentkd.errors import NotFoundError
from agentkd.ledger import Ledger
from agentkd.schema import Scope, now

Make = Any


def status_of(ledger: Ledger) -> dict[str, str]:
    return {c.name.partition("-")[0]: c.status for c in ledger.checkpoints.list()}


def test_a_revoked_memory_taints_rows_and_all_that_went_on_from_them(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.checkpoints.add(make.checkpoint(2, parent=make.checkpoint(1).name))
    assert ledger.revocations.mark() == ""
    ledger.memories.set_status(memory.id, "revoked", "poison")
    assert ledger.revocations.rows("ds-1") == {"ex-1"}
    assert ledger.revocations.datasets() == {"ds-1": 1}
    assert status_of(ledger) == {"student@1": "tainted", "student@2": "tainted"}
    assert ledger.revocations.mark()
    ledger.checkpoints.add(make.checkpoint(3, parent=make.checkpoint(2).name))  # its training ended later
    assert status_of(ledger)["student@3"] == "tainted"


def test_a_revoked_memory_taints_rows_of_its_runs_that_do_not_name_it(ledger: Ledger, make: Make) -> None:
    make.whole_loop(ledger)
    ledger.memories.admit([fact := make.memory("the window is 30 days", "trj-1", kind="fact")])
    ledger.memories.set_status(fact.id, "revoked", "it is 14 now")
    assert ledger.revocations.forbidden() == {"trj-1": "rests on a revoked memory"}
    assert ledger.revocations.rows("ds-1") == {"ex-1"}
    assert status_of(ledger) == {"student@1": "tainted"}
    ledger.datasets.add(make.card("ds-2"), [make.example(2, trajectories=("trj-1",))])  # compiled meanwhile
    assert ledger.revocations.datasets() == {"ds-1": 1, "ds-2": 1}


def test_what_was_withdrawn_at_a_time_is_told_by_what_had_happened_then(ledger: Ledger, make: Make) -> None:
    memory, first, second = make.whole_loop(ledger), "student@1-00000001", "student@2-00000002"
    ledger.checkpoints.add(make.checkpoint(2, parent=first))
    ledger.datasets.add(make.card("ds-3"), [make.example(3)])
    ledger.checkpoints.add(make.checkpoint(3, "ds-3"))
    ledger.checkpoints.promote("student@3-00000003")
    start = now()
    ledger.checkpoints.rollback()
    rolled_back = now()
    ledger.memories.set_status(memory.id, "revoked", "wrong")
    assert ledger.checkpoints.withdrawn(start) == frozenset()
    assert ledger.checkpoints.withdrawn(rolled_back) == {"student@3-00000003"}
    assert ledger.checkpoints.withdrawn() == {first, second, "student@3-00000003"}
    ledger.checkpoints.promote("student@3-00000003")
    assert ledger.checkpoints.withdrawn() == {first, second}
    ledger.checkpoints.add(make.checkpoint(4))  # comes in tainted, by a mark of before
    assert "student@4-00000004" in ledger.checkpoints.withdrawn(now())


def test_a_part_of_a_merge_taints_the_rows_of_the_union_although_the_merge_is_undone(
    ledger: Ledger, make: Make
) -> None:
    for number in (1, 2):
        ledger.trajectories.finish(make.trajectory(number))
    parts = [make.memory("look it up", "trj-1"), make.memory("look it up first", "trj-2")]
    ledger.memories.admit(parts)
    ledger.memories.replace([m.id for m in parts], parts[0], "alike")  # the first takes the second in
    ledger.datasets.add(make.card(), [make.example(1, memories=(parts[0].id,), trajectories=("trj-1",))])
    ledger.checkpoints.add(make.checkpoint(1))
    ledger.memories.set_status(parts[1].id, "revoked", "poison")
    assert ledger.memories.get(parts[0].id).status == "active"  # it stands for itself again
    assert ledger.revocations.rows("ds-1") == {"ex-1"}
    assert status_of(ledger) == {"student@1": "tainted"}


def test_a_revoked_trajectory_reaches_rows_through_its_corrections(ledger: Ledger, make: Make) -> None:
    make.whole_loop(ledger)
    assert ledger.revocations.reach(["trj-1"]).alone
    assert ledger.revocations.revoke_trajectories(["trj-1"], "asked for") == ("trj-1",)
    assert ledger.revocations.revoke_trajectories(["trj-1"], "again") == ()
    assert ledger.revocations.trajectories() == {"trj-1": "asked for"}
    assert ledger.revocations.datasets() == {"ds-1": 1}
    assert ledger.revocations.forbidden() == {"trj-1": "its trajectory was revoked"}
    with pytest.raises(NotFoundError):
        ledger.revocations.revoke_trajectories(["trj-9"], "?")


def test_a_newer_version_of_a_revoked_memory_is_quarantined(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.memories.supersede(memory.id, newer := make.memory("look it up twice", "trj-2"))
    ledger.memories.set_status(memory.id, "revoked", "poison")
    assert ledger.memories.get(newer.id).status == "quarantined"
    ledger.memories.activate(newer.id, "it is sound")
    assert ledger.memories.get(newer.id).status == "active"


@pytest.mark.parametrize("user", ['an"n%', "481204938120498123"])  # the digits could be those of a card
def test_a_scope_names_its_memories_and_runs(ledger: Ledger, make: Make, user: str) -> None:
    ann = Scope(app="shop", user=user)
    ledger.trajectories.finish(make.trajectory(1, scope=ann))
    ledger.trajectories.finish(make.trajectory(2, scope=Scope(app="shop", user="bob")))
    ledger.memories.admit([make.memory("hers", "trj-1", scope=ann), make.memory("all", "trj-2")])
    assert ledger.revocations.trajectories_of(Scope(user=user)) == ("trj-1",)
    assert len(ledger.revocations.memories_of(Scope(user=user))) == 1
    assert len(ledger.revocations.memories_of(Scope(app="shop"))) == 2


def test_learnt_beside_names_what_came_of_runs_that_were_shown_it(ledger: Ledger, make: Make) -> None:
    memory = make.whole_loop(ledger)
    ledger.memories.admit([beside := make.memory("another lesson", "trj-2")])
    assert ledger.revocations.learnt_beside([memory.id]) == (beside.id,)


def test_counts_and_lineage_of_an_earlier_time_leave_out_what_came_later(ledger: Ledger, make: Make) -> None:
    make.whole_loop(ledger)
    name, before = make.checkpoint(1).name, ledger.counts()
    at = max(event.happened_at for event in ledger.memories.events())
    lineage = ledger.lineage.counts(name)
    at = max(at, *(e.happened_at for e in ledger.checkpoints.history()))
    ledger.trajectories.finish(make.trajectory(3, created_at=at.replace(year=at.year + 1)))
    ledger.memories.corroborate(ledger.memories.list()[0].id, make.memory("x", "trj-3").evidence)
    assert ledger.counts()["trajectories"] == before["trajectories"] + 1
    assert ledger.counts(at)["trajectories"] == before["trajectories"]
    assert ledger.counts(at)["memory_events"] == before["memory_events"]
    assert ledger.lineage.counts(name, at) == lineage != ledger.lineage.counts(name)
    assert ledger.checkpoints.serving_at(at) == name
    assert ledger.checkpoints.serving_at(make.trajectory(1).created_at) == "base"
