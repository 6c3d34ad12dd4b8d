"""Merges and undos: nothing is lost, everything is told, and every step can be taken back."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import Ledger
from agentkd.schema import Evidence, MemoryKeys, Scope, Utility, now

Make = Any


@pytest.fixture
def seen(ledger: Ledger, make: Make) -> Ledger:
    """A ledger with five trajectories."""
    for number in range(1, 6):
        ledger.trajectories.finish(make.trajectory(number))
    return ledger


@pytest.fixture
def parts(seen: Ledger, make: Make) -> list[Any]:
    """Two memories that share a trajectory and have been used."""
    first = make.memory("ask for the e-mail", "trj-1", "trj-2", utility=Utility(recalls=5, wins=4))
    second = make.memory("ask for the mail address", "trj-2", "trj-3", utility=Utility(recalls=2, held_out=1))
    seen.memories.admit([first, second])
    return [first, second]


def kinds(ledger: Ledger, memory_id: str) -> list[str]:
    return [event.kind for event in ledger.memories.events(memory_id=memory_id)]


def current(ledger: Ledger) -> set[str]:
    return {memory.id for memory in ledger.memories.list()}


def merged(ledger: Ledger, parts: list[Any], union: Any) -> Any:
    ledger.memories.replace([part.id for part in parts], union, "merge: they say the same")
    return ledger.memories.get(union.id)


def test_a_union_holds_the_evidence_and_the_counters_of_its_parts(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("ask for the e-mail address first"))
    assert current(seen) == {union.id}
    assert union.evidence.trajectories == ("trj-1", "trj-2", "trj-3")
    assert union.support == 3  # distinct trajectories, not 2 + 2
    assert union.utility == Utility(recalls=7, wins=4, held_out=1)
    assert union.version == 2
    for part in parts:
        assert kinds(seen, part.id) == ["admitted", "superseded"]
        assert "they say the same" in seen.memories.events(memory_id=part.id)[-1].reason
        assert {m.id for m in seen.memories.history(part.id)} == {union.id, *(p.id for p in parts)}
    assert "they say the same" in seen.memories.events(memory_id=union.id)[0].reason
    down = seen.lineage.down(union.id)
    assert {p.id for p in parts} <= set(down.ids("memory"))
    assert down.ids("trajectory") == ("trj-1", "trj-2", "trj-3")


def test_undo_makes_the_parts_current_with_their_own_counters_and_what_the_union_gained(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("ask for the e-mail address first"))
    seen.memories.corroborate(union.id, Evidence(trajectories=("trj-4",)))
    changed = seen.memories.undo(parts[1].id, "they differ")
    assert set(changed) == {union.id, *(part.id for part in parts)}
    assert current(seen) == {part.id for part in parts}
    for part in parts:
        now_ = seen.memories.get(part.id)
        assert now_.utility == part.utility
        assert now_.evidence.trajectories == (*part.evidence.trajectories, "trj-4")
        assert now_.support == part.support + 1
        assert "undone" in kinds(seen, part.id)
    with pytest.raises(DataError, match="no edit"):
        seen.memories.undo(parts[0].id)
    assert seen.memories.admit([union])[0].outcome == "rejected"


def test_a_memory_that_takes_others_in_gives_them_back_and_keeps_what_it_gained(
    seen: Ledger, parts: list[Any]
) -> None:
    keeper, other = parts
    keys = keeper.keys.model_copy(update={"more": ("when mail is asked",)})
    whole = merged(seen, parts, keeper.model_copy(update={"keys": keys}))
    assert current(seen) == {keeper.id}
    assert (whole.support, whole.utility.recalls, whole.keys.more) == (3, 7, ("when mail is asked",))
    assert kinds(seen, keeper.id) == ["admitted", "united"]
    seen.memories.corroborate(keeper.id, Evidence(trajectories=("trj-5",)))
    seen.memories.undo(keeper.id, "no")
    back = seen.memories.get(keeper.id)
    assert current(seen) == {keeper.id, other.id}
    assert back.evidence.trajectories == ("trj-1", "trj-2", "trj-5")
    assert (back.support, back.utility, back.keys) == (3, keeper.utility, keeper.keys)
    assert seen.memories.get(other.id).utility == other.utility
    assert seen.lineage.down(keeper.id).ids("trajectory") == ("trj-1", "trj-2", "trj-5")


def test_an_equal_candidate_of_a_part_supports_the_union(seen: Ledger, parts: list[Any]) -> None:
    keeper, other = parts
    merged(seen, parts, keeper)
    again = other.model_copy(update={"evidence": Evidence(trajectories=("trj-5",))})
    (answer,) = seen.memories.admit([again])
    assert (answer.outcome, answer.memory_id) == ("merged", keeper.id)
    assert seen.memories.get(keeper.id).evidence.trajectories[-1] == "trj-5"


def test_what_may_not_be_merged_is_refused(seen: Ledger, make: Make, parts: list[Any]) -> None:
    ids = [part.id for part in parts]
    with pytest.raises(DataError, match="scope"):
        seen.memories.replace(ids, make.memory("u", scope=Scope(app="bank")), "")
    with pytest.raises(NotFoundError, match="mem-none"):
        seen.memories.replace([*ids, "mem-none"], make.memory("u"), "")
    private = make.memory("secret", privacy="private")
    seen.memories.admit([private])
    with pytest.raises(DataError, match="private"):
        seen.memories.replace([ids[0], private.id], make.memory("u"), "")
    merged(seen, parts, make.memory("u"))
    with pytest.raises(DataError, match="replaced"):
        seen.memories.replace([ids[0], private.id], make.memory("v", privacy="private"), "")
    assert current(seen) == {make.memory("u").id, private.id}


def test_revoking_a_part_takes_its_merge_apart_and_taints_what_was_made(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("ask for the e-mail address first"))
    seen.datasets.add(make.card(), [make.example(1, memories=(union.id,), trajectories=("trj-1",))])
    seen.checkpoints.add(make.checkpoint(1))
    seen.memories.set_status(parts[0].id, "revoked", "it is wrong")
    assert seen.memories.status_for() == {parts[0].id: "revoked", parts[1].id: "active"}
    assert seen.checkpoints.get(make.checkpoint(1).name).status == "tainted"
    with pytest.raises(DataError, match="for good"):
        seen.memories.undo(parts[0].id)


def test_what_was_made_of_a_union_is_quarantined_when_a_part_is_revoked(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("union"))
    newer = make.memory("reworded union", "trj-1")
    seen.memories.supersede(union.id, newer)
    seen.memories.set_status(parts[0].id, "revoked", "it is wrong")
    assert seen.memories.status_for()[newer.id] == "quarantined"


def test_a_revoked_union_stays_revoked_when_a_part_is_revoked_too(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("union"))
    newer = make.memory("reworded union", "trj-1")
    seen.memories.supersede(union.id, newer)
    seen.memories.set_status(newer.id, "revoked", "poison")
    seen.memories.set_status(parts[0].id, "revoked", "it is wrong")
    assert seen.memories.status_for()[newer.id] == "revoked"
    with pytest.raises(DataError, match="for good"):
        seen.memories.set_status(newer.id, "active", "back again")


def test_a_status_is_taken_back_where_it_was_set(seen: Ledger, parts: list[Any]) -> None:
    one = parts[0].id
    seen.memories.set_status(one, "quarantined", "ttl: too old")
    seen.memories.set_status(one, "compiled", "in the weights", checkpoint="student@1-a")
    assert seen.memories.undo(one) == (one,)
    assert seen.memories.status_for("student@1-a")[one] == "quarantined"
    seen.memories.undo(one)
    assert seen.memories.status_for()[one] == "active"
    assert ("ttl", "quarantined", frozenset({one})) in seen.memories.overruled()


def test_a_new_version_is_taken_back(seen: Ledger, make: Make, parts: list[Any]) -> None:
    newer = make.memory("newer", "trj-1")
    seen.memories.supersede(parts[0].id, newer, "redistil: clearer")
    assert set(seen.memories.undo(newer.id, "it was clearer before")) == {newer.id, parts[0].id}
    assert current(seen) == {part.id for part in parts}
    assert seen.memories.overruled() == (("redistil", "superseded", frozenset({parts[0].id})),)


def test_a_later_edit_stands_in_the_way(seen: Ledger, make: Make, parts: list[Any]) -> None:
    union = merged(seen, parts, make.memory("union"))
    seen.memories.supersede(union.id, make.memory("newer", "trj-1"))
    with pytest.raises(DataError, match="was itself replaced"):
        seen.memories.undo(parts[0].id)


def taken_in_turn(ledger: Ledger, make: Make) -> tuple[Any, Any, Any]:
    """Return a memory that took in a first one, and later a second one."""
    home, first, second = (make.memory(text, "trj-1") for text in ("home", "first", "second"))
    ledger.memories.admit([home, first, second])
    for part, more in ((first, ("1",)), (second, ("1", "2"))):
        keys = MemoryKeys(situation=home.when_to_use, more=more)
        kept = ledger.memories.get(home.id).model_copy(update={"keys": keys})
        ledger.memories.replace([home.id, part.id], kept, "corroborate: alike")
    return home, first, second


def test_a_merge_is_not_taken_back_in_the_place_of_an_earlier_one(seen: Ledger, make: Make) -> None:
    home, first, second = taken_in_turn(seen, make)
    with pytest.raises(DataError, match="has taken in others since"):
        seen.memories.undo(first.id, "it is another lesson")
    assert current(seen) == {home.id}
    seen.memories.undo(home.id)
    assert current(seen) == {home.id, second.id}
    seen.memories.undo(first.id, "it is another lesson")
    assert current(seen) == {home.id, first.id, second.id}
    assert not seen.memories.get(home.id).keys.more


def test_a_part_that_was_taken_in_early_is_revoked_alone(seen: Ledger, make: Make) -> None:
    home, first, second = taken_in_turn(seen, make)
    seen.memories.set_status(first.id, "revoked", "wrong")
    assert {m.id: m.status for m in seen.memories.list()} == {
        home.id: "active", first.id: "revoked", second.id: "active",
    }  # fmt: skip
    assert not seen.memories.get(home.id).keys.more


def test_a_status_of_a_checkpoint_is_taken_back_a_second_time(seen: Ledger, parts: list[Any]) -> None:
    one = parts[0].id
    for _ in range(2):
        seen.memories.set_status(one, "retired", "certified", checkpoint="student@1-a")
        seen.memories.undo(one)
        assert seen.memories.get(one, "student@1-a").status == "active"


def test_who_takes_his_own_overruling_back_overrules_nobody(seen: Ledger, parts: list[Any]) -> None:
    one = parts[0].id
    seen.memories.set_status(one, "quarantined", "utility-prune: harmful")
    seen.memories.activate(one, "person: it is right")
    assert seen.memories.overruled()
    seen.memories.undo(one, "that was a slip")
    assert seen.memories.get(one).status == "quarantined"
    assert "utility-prune" not in {who for who, _, _ in seen.memories.overruled()}


def test_a_person_brings_a_memory_back(seen: Ledger, parts: list[Any]) -> None:
    one = parts[0].id
    seen.memories.set_status(one, "quarantined", "utility-prune: harmful")
    seen.memories.set_status(one, "tombstone", "utility-prune: in quarantine for long")
    assert seen.memories.activate(one, "person: it is right")
    assert not seen.memories.activate(one, "again")
    assert {(who, kind) for who, kind, _ in seen.memories.overruled()} == {
        ("utility-prune", "quarantined"), ("utility-prune", "tombstone"),
    }  # fmt: skip
    seen.memories.set_status(one, "revoked", "no")
    with pytest.raises(DataError, match="for good"):
        seen.memories.activate(one, "person: please")


def test_the_pool_is_seen_as_it_was(seen: Ledger, make: Make, parts: list[Any]) -> None:
    first, second = parts
    before = pause()
    keeper = first.model_copy(update={"keys": MemoryKeys(more=("also this",))})
    merged(seen, parts, keeper)
    united = pause()
    seen.memories.corroborate(first.id, Evidence(trajectories=("trj-5",)))
    seen.memories.set_status(first.id, "quarantined", "odd")
    later = pause()
    seen.memories.undo(first.id)
    seen.memories.undo(first.id)

    def then(at: Any) -> dict[str, Any]:
        return {m.id: (m.status, m.support, m.keys.more) for m in seen.memories.list(at=at)}

    assert then(before) == {first.id: ("active", 2, ()), second.id: ("active", 2, ())}
    assert then(united) == {first.id: ("active", 3, ("also this",))}
    assert then(later) == {first.id: ("quarantined", 4, ("also this",))}
    assert then(now()) == {first.id: ("active", 3, ()), second.id: ("active", 2, ())}
    assert seen.memories.list(at=later, status="active") == []
    assert seen.memories.status_for(at=before) == {first.id: "active", second.id: "active"}
    assert seen.memories.list(at=make.trajectory(1).created_at) == []
    evidence = {m.id: m.evidence.trajectories for m in seen.memories.list(at=united)}
    assert evidence == {first.id: ("trj-1", "trj-2", "trj-3")}


def pause() -> Any:
    time.sleep(0.002)
    moment = now()
    time.sleep(0.002)
    return moment


@pytest.mark.parametrize("makes_new", [True, False])
def test_an_outcome_that_comes_after_a_merge_counts_for_the_union_and_once_after_an_undo(
    seen: Ledger, make: Make, parts: list[Any], makes_new: bool
) -> None:
    keeper, other = parts
    seen.memories.record_recall("trj-4", 0, [make.hit(other)])
    union = merged(seen, parts, make.memory("ask for the e-mail address first") if makes_new else keeper)
    seen.memories.record_recall("trj-5", 0, [make.hit(union)])
    for id_ in ("trj-4", "trj-5"):
        seen.memories.record_outcome(id_, True)
    assert seen.memories.get(union.id).utility == Utility(recalls=9, wins=6, held_out=1)
    seen.memories.record_outcome("trj-4", False)
    assert seen.memories.get(union.id).utility == Utility(recalls=9, wins=5, held_out=1)
    seen.memories.undo(other.id, "they differ")
    late, own = int(makes_new), seen.memories.get(keeper.id).utility
    assert own == Utility(recalls=6, wins=5)  # what the union was recalled for is the keeper's
    assert seen.memories.get(other.id).utility == Utility(recalls=3 + late, wins=late, held_out=1)


def test_what_a_capped_source_said_to_a_union_raises_no_part_when_it_is_taken_apart(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    union = merged(seen, parts, make.memory("ask for the e-mail address first"))
    more = Evidence(trajectories=("trj-4", "trj-5"))
    assert seen.memories.corroborate(union.id, more, uncounted=more.trajectories) == 0
    seen.memories.set_status(parts[0].id, "revoked", "wrong")
    [left] = [memory for memory in seen.memories.list() if memory.status == "active"]
    assert (left.id, left.support) == (parts[1].id, 2)
    assert {"trj-4", "trj-5"} <= {*left.evidence.trajectories}
    assert seen.memories.list(at=now())[0].support == 2


def test_a_rewording_is_in_the_weights_that_hold_what_it_says_again(seen: Ledger, make: Make) -> None:
    old = make.memory("ask for the e-mail", "trj-1")
    seen.memories.admit([old])
    for status, checkpoint in (("retired", "student@1"), ("compiled", "student@2")):
        seen.memories.set_status(old.id, status, "in the weights", checkpoint=checkpoint)
    new = make.memory("ask for the mail address", "trj-1", extras={"reworded_by": "teacher"})
    seen.memories.supersede(old.id, new, "redistil: reworded")
    for status, checkpoint in (("retired", "student@1"), ("compiled", "student@2")):
        assert seen.memories.status_for(checkpoint)[new.id] == status
    assert seen.memories.status_for("base")[new.id] == old.status
    seen.memories.undo(new.id, "it read better before")
    assert current(seen) == {old.id}
    assert seen.memories.status_for("student@1") == {old.id: "retired"}

    other = make.memory("ask for the telephone", "trj-1")
    seen.memories.supersede(old.id, other, "by a person")
    assert seen.memories.status_for("student@1")[other.id] == old.status, "the weights hold another lesson"


def test_what_comes_in_while_a_teacher_rewords_is_in_the_new_version(seen: Ledger, make: Make) -> None:
    old = make.memory("ask for the e-mail", "trj-1")
    seen.memories.admit([old])
    new = make.memory("ask for the mail address", "trj-1", extras={"reworded_by": "teacher"})
    seen.memories.admit([make.memory("ask for the e-mail", "trj-2")])
    seen.memories.supersede(old.id, new, "redistil: reworded")
    [left] = seen.memories.list()
    assert (left.id, left.support, left.version) == (new.id, 2, 2)
    assert left.evidence.trajectories == ("trj-1", "trj-2")


def test_an_undo_takes_a_merge_back_and_not_the_status_that_came_with_it(
    seen: Ledger, make: Make, parts: list[Any]
) -> None:
    for part in parts:
        seen.memories.set_status(part.id, "retired", "in the weights", checkpoint="student@1")
    union = merged(seen, parts, make.memory("ask for the e-mail address first"))
    assert seen.memories.status_for("student@1")[union.id] == "retired"
    seen.memories.undo(union.id, "they differ")
    assert current(seen) == {part.id for part in parts}


def test_what_an_earlier_lesson_gains_when_it_is_said_again_belongs_to_that_moment(
    seen: Ledger, make: Make
) -> None:
    old, newer = make.memory("ask first", "trj-1"), make.memory("do not ask", "trj-1")
    seen.memories.admit([old])
    before = now()
    time.sleep(0.01)
    seen.memories.supersede(old.id, newer, "supersede: newer")
    seen.corrections.add(said := make.correction(1, "trj-2"))
    again = Evidence(trajectories=("trj-2",), corrections=(said.id,))
    seen.memories.admit([old.model_copy(update={"evidence": again})])
    assert kinds(seen, old.id)[-1] == "reactivated"
    assert seen.memories.get(old.id).support == 2
    (then,) = seen.memories.list(at=before)
    assert (then.id, then.support, then.evidence) == (old.id, 1, old.evidence)
