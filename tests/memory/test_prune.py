"""What harms is quarantined, what idles is pruned, the pool is bounded, and the best stay."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentkd.config import Settings
from agentkd.memory import UtilityPruneRefiner, UtilityPruneSettings, lift_report
from agentkd.schema import Evidence, Scope, Standing, Use, Utility
from agentkd.testing import FakeKit, FixedClock

DAY = timedelta(days=1).total_seconds()


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def used(lesson, clock):
    def make(name, recalls=0, wins=0, held_out=0, held_out_wins=0, status="active", support=1, scope=None):
        utility = Utility(recalls=recalls, wins=wins, held_out=held_out, held_out_wins=held_out_wins)
        made = lesson(name, scope=scope)
        return made.model_copy(
            update={"utility": utility, "status": status, "support": support, "created_at": clock()}
        )

    return make


@pytest.fixture
def refine(clock):
    def run(memories, standings=(), level=0.95, uses=None, **settings):
        refiner = UtilityPruneRefiner(UtilityPruneSettings(**settings), clock)
        kit = FakeKit(settings=Settings(memory={"trial_level": level}), standings=standings, uses=uses)
        return list(refiner.refine(memories, kit))

    return run


def names(edits, memories):
    by_id = {memory.id: memory.when_to_use for memory in memories}
    return {by_id[id_]: edit.status for edit in edits for id_ in edit.ids}


def test_a_memory_whose_tasks_do_better_without_it_is_quarantined(used, refine):
    bad, good = used("bad", 12, 2, 6, 6), used("good", 40, 34, 20, 6)
    [edit] = refine([bad, good])
    assert (edit.ids, edit.status) == ((bad.id,), "quarantined")
    assert edit.reason.startswith("harmful: lift -0.")
    assert "2 of 12 with, 6 of 6 without" in edit.reason


@pytest.mark.parametrize(
    "counts",
    [(4, 0, 9, 9), (12, 2, 1, 1), (12, 0, 0, 0), (12, 10, 6, 6), (0, 0, 9, 9)],
    ids=["too few with", "too few without", "never withheld", "a small difference", "never shown"],
)
def test_little_evidence_spares_a_memory(used, refine, counts):
    assert refine([used("one", *counts), used("rest", 40, 30, 30, 25)], useless_tasks=50) == []


def test_a_hard_suite_is_not_the_memory_s_fault(used, refine):
    assert refine([used("one", 20, 1, 8, 0), used("rest", 200, 30, 50, 8)], useless_tasks=50) == []


def test_the_certainty_is_a_setting(used, refine):
    memories = [used("one", 12, 6, 6, 5)]
    assert refine(memories, useless_tasks=50) == []
    assert [edit.status for edit in refine(memories, level=0.8, useless_tasks=50)] == ["quarantined"]


def test_what_is_worth_nothing_is_pruned_and_the_best_are_not(used, refine):
    idle = [used(f"idle {n}", 20, 15, 10, 8) for n in range(3)]
    good = used("good", 20, 18, 10, 3)
    assert names(refine([*idle, good], keep=1), [*idle, good]) == dict.fromkeys(
        ["idle 0", "idle 1", "idle 2"], "quarantined"
    )
    assert "useless: lift" in refine([*idle, good], keep=1)[0].reason
    assert refine([*idle, good], keep=4) == []
    assert len(refine([*idle, good], keep=3)) == 1
    assert refine([*idle, good], keep=1, useless_tasks=31) == []
    assert refine([*idle, good], keep=1, useless_above=0.99) == []


def uses_of(memory, beside):
    """Return the uses behind a memory's counters, in the company of some others."""
    u, beside = memory.utility, frozenset(m.id for m in beside)
    shown = [Use(win=n < u.wins, beside=beside) for n in range(u.recalls)]
    out = [Use(withheld=True, win=n < u.held_out_wins, beside=beside) for n in range(u.held_out)]
    return [*shown, *out]


def test_of_two_that_do_the_same_one_leaves_and_the_other_is_measured_anew(used, refine):
    """Either is of no use while the other is there: without that rule both leave, and their tasks fail."""
    first, second = used("first", 20, 19, 12, 12), used("second", 20, 20, 12, 12)
    beside = {first.id: uses_of(first, [second]), second.id: uses_of(second, [first])}
    both = [first, second]
    assert names(refine(both, keep=0), both) == dict.fromkeys(["first", "second"], "quarantined")
    assert names(refine(both, keep=0, uses=beside), both) == {"first": "quarantined"}
    alone = refine([second], keep=0, uses=beside)  # a refiner does not see all that is recalled
    assert names(alone, both) == {"second": "quarantined"}
    beside = {id_: [use.model_copy(update={"is_past": True}) for use in told] for id_, told in beside.items()}
    away = first.model_copy(update={"status": "quarantined"})
    assert refine([away, second], keep=0, uses=beside) == []  # nothing new is known of it
    more = used("second", 40, 40, 20, 13)
    news = [Use(win=True)] * 20 + [Use(withheld=True)] * 7 + [Use(withheld=True, win=True)]
    assert refine([away, more], keep=0, uses={second.id: [*beside[second.id], *news]}) == []
    idle = used("second", 40, 40, 24, 24)
    news = [Use(win=True)] * 20 + [Use(withheld=True, win=True)] * 12
    [edit] = refine([away, idle], keep=0, uses={second.id: [*beside[second.id], *news]})
    assert "20 of 20 with, 12 of 12 without" in edit.reason


def test_what_was_put_away_beside_another_one_may_return_once_that_is_gone(used, refine, clock):
    first, second = used("first", 20, 19, 12, 12, status="quarantined"), used("second", 20, 20, 12, 12)
    begun = clock()
    clock.tick(DAY)
    told = Standing(
        memory_id=first.id, changed_at=begun, evidence_at=clock(), reason="utility-prune: useless"
    )
    uses = {first.id: uses_of(first, [second]), second.id: []}
    assert refine([first, second], [told], uses=uses) == []
    uses = {first.id: [use.model_copy(update={"is_past": True}) for use in uses[first.id]]}
    assert names(refine([first], [told], uses=uses), [first]) == {"first": "active"}


def test_the_best_are_not_spared_when_they_harm(used, refine):
    assert len(refine([used("bad", 12, 2, 6, 6)], keep=100)) == 1


def test_scopes_have_their_own_prior(used, refine):
    """Three withheld tasks say little by themselves; the scope's others say what to expect."""
    here, there = Scope(app="here"), Scope(app="there")
    one = used("one", 10, 2, 3, 2, scope=here)
    easy, hard = used("easy", 90, 80, 90, 85, scope=here), used("hard", 90, 9, 90, 5, scope=there)
    settings = {"useless_tasks": 500}
    assert names(refine([one, easy], **settings), [one, easy]) == {"one": "quarantined"}
    assert refine([one, hard], **settings) == []


def test_a_full_pool_puts_out_what_nobody_recalls_then_the_worst(used, refine, clock):
    old = [used("old unused", support=1), used("old supported", support=3)]
    clock.tick(40 * DAY)
    young, good, bad = used("young"), used("good", 9, 9, 4, 0), used("bad", 4, 0, 4, 2)
    memories = [*old, young, good, bad]
    assert refine(memories, max_pool=5) == []
    assert names(refine(memories, max_pool=4), memories) == {"old unused": "quarantined"}
    assert set(names(refine(memories, max_pool=3), memories)) == {"old unused", "old supported"}
    assert set(names(refine(memories, max_pool=2), memories)) == {"old unused", "old supported", "bad"}
    assert set(names(refine(memories, max_pool=1), memories)) == {
        "old unused", "old supported", "bad", "young",
    }  # fmt: skip
    assert set(names(refine(memories, max_pool=4, unused_days=60), memories)) == {"bad"}


def test_a_quarantine_ends_as_a_tombstone(used, refine, clock):
    memory = used("bad", 12, 2, 6, 6, status="quarantined")
    standing = Standing(memory_id=memory.id, changed_at=clock(), reason="utility-prune: harmful")
    assert refine([memory], [standing]) == []
    clock.tick(15 * DAY)
    [edit] = refine([memory], [standing])
    assert edit.status == "tombstone"
    assert "utility-prune: harmful" in edit.reason
    assert refine([memory], [standing], quarantine_days=20) == []
    assert refine([memory]) == []  # nobody knows since when


def test_new_evidence_brings_back_what_was_not_measured(used, refine, clock):
    idle = used("no room", status="quarantined")
    bad = used("bad", 12, 2, 6, 6, status="quarantined")
    begun = clock()
    clock.tick(20 * DAY)
    standings = [
        Standing(memory_id=m.id, changed_at=begun, evidence_at=clock(), reason="utility-prune: no room")
        for m in (idle, bad)
    ]
    assert names(refine([idle, bad], standings), [idle, bad]) == {"no room": "active", "bad": "tombstone"}
    earlier = [s.model_copy(update={"evidence_at": begun - timedelta(days=1)}) for s in standings[:1]]
    assert names(refine([idle], earlier), [idle]) == {"no room": "tombstone"}
    others = [standings[0].model_copy(update={"reason": why}) for why in ("person: wrong", "admitted")]
    assert [names(refine([idle], [s]), [idle])["no room"] for s in others] == ["tombstone"] * 2


def test_only_active_and_quarantined_memories_are_touched(used, refine):
    others = [used(status, 30, 0, 9, 9, status=status) for status in ("retired", "compiled", "tombstone")]
    assert refine(others) == []


def test_a_tombstone_is_out_of_use_but_not_lost(store, ledger, lesson, happened, clock):
    """The whole way through a real store: quarantined, buried, on record, and brought back by a person."""
    happened("trj-1")
    memory = lesson("parcel is late", "look up the order", evidence=("trj-1",))
    store.admit([memory])
    refiner = UtilityPruneRefiner(UtilityPruneSettings(), clock=lambda: clock() + timedelta(days=100_000))
    store.set_status(memory.id, "quarantined", "it harms")
    assert store.recall("parcel is late") == []
    kit = FakeKit(standings=ledger.memories.standings([memory.id]).values())
    [edit] = store.refine([refiner], kit)
    assert (edit.before, edit.status) == ("quarantined", "tombstone")
    assert store.recall("parcel is late") == []
    assert store.recall("parcel is late", also=["retired"]) == []
    audit = store.audit()
    assert audit.by_status == {"tombstone": 1}
    assert audit.n_vectors == audit.n_vectors_expected == 0
    again = lesson("parcel is late", "look up the order", evidence=("trj-1",))
    store.admit([again])  # the same lesson learnt again does not rise by itself
    assert ledger.memories.get(memory.id).status == "tombstone"
    store.set_status(memory.id, "active", "a person read it")
    assert [hit.memory.id for hit in store.recall("parcel is late")] == [memory.id]
    kinds = [event.kind for event in ledger.memories.events(memory_id=memory.id)]
    assert kinds[-3:] == ["quarantined", "tombstone", "reactivated"]


def test_a_tombstone_is_never_compiled(used):
    from agentkd.compiler import fault_of

    assert not fault_of(used("one"))
    assert fault_of(used("one", status="tombstone")) == "tombstone"
    assert fault_of(used("one", status="quarantined")) == "quarantined"


def test_the_report_ranks_what_was_recalled(ledger, store, lesson, used):
    from agentkd.config import MemorySettings

    made = [used("best", 30, 28, 10, 2), used("worst", 30, 4, 10, 9), used("never")]
    ledger.memories.admit([m.model_copy(update={"evidence": Evidence()}) for m in made])
    report = lift_report(ledger, MemorySettings())
    assert [m.when_to_use for m in report.memories] == ["best", "worst"]
    assert report.memories[0].lift.low > 0 > report.memories[1].lift.high
    assert report.n_unmeasured == 1
    assert report.scopes == ()
