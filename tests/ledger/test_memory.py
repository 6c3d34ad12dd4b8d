"""Memories are admitted once, versioned, and have a status per serving checkpoint."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import Ledger
from agentkd.schema import Evidence, Scope, Utility, now

from .conftest import START

Make = Any


@pytest.fixture
def seen(ledger: Ledger, make: Make) -> Ledger:
    """A ledger with three trajectories."""
    for number in (1, 2, 3):
        ledger.trajectories.finish(make.trajectory(number))
    return ledger


def kinds(ledger: Ledger, memory_id: str) -> list[str]:
    return [event.kind for event in ledger.memories.events(memory_id=memory_id)]


def test_admission_says_what_became_of_each_candidate(seen: Ledger, make: Make) -> None:
    new, unseen = make.memory("look it up", "trj-1"), make.memory("guess", "trj-9")
    orphan = make.memory("adopted", "trj-1", parent="mem-none")
    answers = seen.memories.admit([new, unseen, new, orphan])
    assert [a.outcome for a in answers] == ["stored", "rejected", "merged", "rejected"]
    assert "`trj-9`" in answers[1].reason
    assert seen.memories.list() == [new]
    assert kinds(seen, new.id) == ["admitted"]


def test_admitting_again_merges_only_new_evidence(seen: Ledger, make: Make) -> None:
    seen.memories.admit([make.memory("look it up", "trj-1")])
    before = seen.counts()
    seen.memories.admit([make.memory("look it up", "trj-1")])
    assert seen.counts() == before
    (answer,) = seen.memories.admit([make.memory("look it up", "trj-1", "trj-2")])
    merged = seen.memories.get(answer.memory_id)
    assert (merged.support, merged.evidence.trajectories) == (2, ("trj-1", "trj-2"))
    assert kinds(seen, merged.id) == ["admitted", "merged"]


def test_support_grows_by_distinct_trajectories_only(seen: Ledger, make: Make) -> None:
    memory = make.memory("look it up", "trj-1")
    seen.memories.admit([memory])
    assert seen.memories.corroborate(memory.id, Evidence(trajectories=("trj-1", "trj-2", "trj-2"))) == 1
    assert seen.memories.corroborate(memory.id, Evidence(trajectories=("trj-2",))) == 0
    assert seen.memories.corroborate(memory.id, Evidence(steps=("trj-2:0",))) == 0
    stored = seen.memories.get(memory.id)
    assert (stored.support, stored.evidence.steps) == (2, ("trj-2:0",))
    with pytest.raises(NotFoundError, match="`trj-9`"):
        seen.memories.corroborate(memory.id, Evidence(trajectories=("trj-9",)))
    with pytest.raises(NotFoundError, match="`mem-none`"):
        seen.memories.corroborate("mem-none", Evidence())


def test_superseding_makes_a_version_chain(seen: Ledger, make: Make) -> None:
    texts = ("first", "second", "third")
    first, second, third = (make.memory(text, "trj-1") for text in texts)
    seen.memories.admit([first])
    seen.memories.supersede(first.id, second)
    seen.memories.supersede(second.id, third)
    assert seen.memories.supersede(second.id, third).outcome == "merged"
    assert [m.content for m in seen.memories.list()] == ["third"]
    for memory in (first, second, third):
        assert [(m.content, m.version) for m in seen.memories.history(memory.id)] == [
            ("first", 1), ("second", 2), ("third", 3),
        ]  # fmt: skip
    assert seen.memories.get(third.id).parent == second.id
    assert kinds(seen, first.id) == ["admitted", "superseded"]
    assert list(seen.memories.status_for()) == [third.id]
    assert len(seen.memories.list(current=False)) == 3
    (answer,) = seen.memories.admit([first])
    assert answer.outcome == "rejected"
    with pytest.raises(DataError, match="superseded"):
        seen.memories.supersede(first.id, make.memory("fork", "trj-1"))
    with pytest.raises(NotFoundError):
        seen.memories.supersede("mem-none", first)
    with pytest.raises(NotFoundError):
        seen.memories.history("mem-none")


def test_superseding_by_a_memory_that_is_there_unites_the_evidence(seen: Ledger, make: Make) -> None:
    old, other = make.memory("old", "trj-1"), make.memory("other", "trj-2")
    seen.memories.admit([old, other])
    assert seen.memories.supersede(old.id, make.memory("other", "trj-1")).outcome == "merged"
    assert [m.id for m in seen.memories.list()] == [other.id]
    assert seen.memories.get(other.id).support == 2


def test_an_earlier_version_can_come_back(seen: Ledger, make: Make) -> None:
    first, second = make.memory("first", "trj-1"), make.memory("second", "trj-1")
    seen.memories.admit([first])
    seen.memories.supersede(first.id, second)
    assert seen.memories.supersede(second.id, first).outcome == "merged"
    assert [m.id for m in seen.memories.list()] == [first.id]
    assert kinds(seen, first.id) == ["admitted", "superseded", "reactivated"]


def test_status_is_per_serving_checkpoint_with_the_base_as_default(seen: Ledger, make: Make) -> None:
    memory = make.memory("look it up", "trj-1")
    seen.memories.admit([memory])
    assert seen.memories.set_status(memory.id, "compiled", "in the weights", checkpoint="student@1-a")
    assert not seen.memories.set_status(memory.id, "compiled", "again", checkpoint="student@1-a")
    assert seen.memories.status_for("student@1-a") == {memory.id: "compiled"}
    assert seen.memories.status_for("student@2-b") == {memory.id: "active"}
    assert seen.memories.status_for() == {memory.id: "active"}
    assert seen.memories.list(status="active", checkpoint="student@1-a") == []
    assert seen.memories.get(memory.id, "student@1-a").status == "compiled"
    assert kinds(seen, memory.id) == ["admitted", "compiled"]


def test_a_revocation_holds_everywhere_and_for_good(seen: Ledger, make: Make) -> None:
    memory = make.memory("look it up", "trj-1")
    seen.memories.admit([memory])
    seen.memories.set_status(memory.id, "active", "refreshed", checkpoint="student@1-a")
    seen.memories.set_status(memory.id, "revoked", "it is wrong", checkpoint="student@2-b")
    for checkpoint in ("base", "student@1-a", "student@2-b"):
        assert seen.memories.status_for(checkpoint) == {memory.id: "revoked"}
    (answer,) = seen.memories.admit([memory])
    assert answer.outcome == "rejected"
    assert "it is wrong" in answer.reason
    with pytest.raises(NotFoundError):
        seen.memories.set_status("mem-none", "active", "")


def test_events_tell_an_index_what_to_follow(seen: Ledger, make: Make) -> None:
    memory = make.memory("look it up", "trj-1", status="candidate")
    seen.memories.admit([memory])
    mark = seen.memories.last_seq()
    seen.memories.set_index_mark("chroma", mark)
    seen.memories.set_status(memory.id, "active", "corroborated")
    seen.memories.set_status(memory.id, "quarantined", "tainted source")
    seen.memories.set_status(memory.id, "active", "approved")
    seen.memories.set_status(memory.id, "retired", "no use")
    later = seen.memories.events(after_seq=seen.memories.index_mark("chroma"))
    brief = seen.memories.changes(seen.memories.index_mark("chroma"))
    assert [tuple(change) for change in brief] == [
        (e.seq, e.memory_id, e.kind, e.checkpoint, e.status, e.current) for e in later
    ]
    assert [event.kind for event in later] == ["activated", "quarantined", "reactivated", "retired"]
    assert [event.seq for event in later] == list(range(mark + 1, mark + 5))
    assert later[1].reason == "tainted source"
    seen.memories.set_index_mark("chroma", 0)
    assert seen.memories.index_mark("chroma") == seen.memories.index_mark("exact") == 0


def test_a_memory_is_listed_where_every_field_it_sets_is_the_askers(seen: Ledger, make: Make) -> None:
    scopes = [Scope(), Scope(app="shop"), Scope(app="shop", user="ada"), Scope(app="shop", user="ad%")]
    memories = [make.memory(str(i), scope=scope) for i, scope in enumerate(scopes)]
    seen.memories.admit(memories)

    def found(scope: Scope) -> set[str]:
        return {memory.content for memory in seen.memories.list(scope=scope)}

    assert found(Scope(app="shop", user="ada")) == {"0", "1", "2"}
    assert found(Scope(app="shop", user="ADA")) == {"0", "1"}
    assert found(Scope(app="bank")) == {"0"}
    assert found(Scope(app="sho_")) == {"0"}


def test_memories_are_counted_by_kind_status_and_scope(seen: Ledger, make: Make) -> None:
    mine = make.memory("mine", scope=Scope(user="ann"))
    seen.memories.admit([mine, make.memory("also mine", scope=Scope(user="ann")), make.memory("for all")])
    before = now()
    seen.memories.set_status(mine.id, "quarantined", "odd")
    counts = {(each.scope.user, each.status): each.n for each in seen.memories.tally()}
    assert counts == {("ann", "quarantined"): 1, ("ann", "active"): 1, ("", "active"): 1}
    then = {(each.scope.user, each.status): each.n for each in seen.memories.tally(at=before)}
    assert then == {("ann", "active"): 2, ("", "active"): 1}
    assert {each.kind for each in seen.memories.tally()} == {mine.kind}


@pytest.mark.parametrize("is_past", [False, True])
def test_the_newest_memories_of_one_owner_are_listed(seen: Ledger, make: Make, is_past: bool) -> None:
    names = ("one", "two", "three")
    seen.memories.admit(
        make.memory(name, scope=Scope(user="ann"), created_at=START + timedelta(hours=hours))
        for hours, name in enumerate(names)
    )
    seen.memories.admit([make.memory("for all", created_at=START + timedelta(hours=9))])
    at = now() if is_past else None
    found = seen.memories.list(owner={"user": "ann"}, limit=2, latest=True, at=at)
    everything = seen.memories.list(owner={"user": "ann"}, at=at)
    assert len(everything) == 3
    assert found == everything[1:]
    assert seen.memories.list(owner={"user": "ann"}, limit=2, at=at) == everything[:2]
    assert len(seen.memories.list(owner={"user": ""}, latest=True, at=at)) == 1


def test_memories_are_filtered_by_status_and_kind(seen: Ledger, make: Make) -> None:
    first = make.memory("a", status="active")
    second = make.memory("b", status="quarantined", kind="pitfall")
    seen.memories.admit([first, second])
    assert seen.memories.list(status="quarantined") == [second]
    assert len(seen.memories.list(status=("active", "quarantined"))) == 2
    assert seen.memories.list(kinds=["pitfall"]) == [second]
    assert len(seen.memories.list(limit=1)) == 1
    assert [m.content for m in seen.memories.get_many([second.id, "no", first.id])] == ["b", "a"]


def test_outcomes_move_utility_once_per_task(ledger: Ledger, make: Make) -> None:
    shown, withheld = make.memory("shown"), make.memory("withheld")
    ledger.memories.admit([shown, withheld])
    ledger.trajectories.begin(make.trajectory(1, success=None))
    for step in range(3):
        hits = [make.hit(shown), make.hit(withheld, 0.7)]
        ledger.memories.record_recall("trj-1", step, hits, withheld={withheld.id})
        ledger.memories.record_recall("trj-1", step, hits, withheld={withheld.id})
    ledger.trajectories.finish(make.trajectory(1))
    ledger.memories.record_outcome("trj-1", True)
    assert ledger.counts()["recalls"] == 6
    assert ledger.memories.get(shown.id).utility == Utility(recalls=1, wins=1)
    assert ledger.memories.get(withheld.id).utility == Utility(held_out=1, held_out_wins=1)
    ledger.memories.record_outcome("trj-1", False)
    assert ledger.memories.get(shown.id).utility == Utility(recalls=1, wins=0)
    assert [r.win for r in ledger.memories.recalls(memory_id=shown.id)] == [False] * 3
    first = ledger.memories.recalls(trajectory_id="trj-1")[0]
    assert (first.step, first.memory_id, first.score, first.withheld) == (0, shown.id, 0.8, False)


def test_time_travel_takes_off_only_what_had_counted(seen: Ledger, make: Make) -> None:
    memory = make.memory("look it up", "trj-1")
    seen.memories.admit([memory])
    before = now()
    seen.memories.corroborate(
        memory.id, Evidence(trajectories=("trj-2", "trj-3")), uncounted=("trj-2", "trj-3")
    )
    assert seen.memories.get(memory.id).support == 1
    (then,) = seen.memories.list(at=before)
    assert (then.support, then.evidence.trajectories) == (1, ("trj-1",))


def test_it_is_known_what_took_a_memorys_place(seen: Ledger, make: Make) -> None:
    old, new = make.memory("look it up", "trj-1"), make.memory("ask first", "trj-2")
    seen.memories.admit([old])
    seen.memories.supersede(old.id, new)
    assert seen.memories.successors([old.id, new.id, "mem-none"]) == {old.id: new.id}
