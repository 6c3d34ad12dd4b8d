"""When refiners change memories; nothing is ever deleted."""

from __future__ import annotations

from datetime import timedelta

from agentkd.ledger import tables
from agentkd.ledger.item import ITEM_ORIGIN
from agentkd.memory import TtlRefiner, TtlSettings, UtilityPruneRefiner, UtilityPruneSettings
from agentkd.schema import Utility, now
from agentkd.testing import FakeKit, FixedClock


class _Kit(FakeKit):
    """A kit whose standings are those of a ledger."""

    def __init__(self, ledger):
        super().__init__()
        self._ledger = ledger

    def standings(self, ids):
        return self._ledger.memories.standings(ids)


def _long_ago(ledger, age, kind):
    """Let all events of a kind have happened earlier."""
    e = tables.memory_events
    with ledger._database.write() as connection:
        values = {"happened_at": now() - age}
        connection.execute(e.update().where(e.c.kind == kind).values(values))


def test_old_facts_expire_and_used_ones_are_spared_when_asked(lesson):
    clock = FixedClock()
    fact = lesson("price", kind="fact").model_copy(update={"created_at": clock(), "status": "active"})
    rule = lesson("rule").model_copy(update={"created_at": clock(), "status": "active"})
    known = fact.model_copy(update={"utility": Utility(recalls=1), "id": "mem-used"})
    clock.tick(timedelta(days=31).total_seconds())

    def expired(**settings):
        refiner = TtlRefiner(TtlSettings(**settings), clock)
        return [edit.ids[0] for edit in refiner.refine([fact, rule, known], FakeKit())]

    assert expired() == []
    assert expired(days=30) == [fact.id, known.id]
    assert expired(days=30, unused_only=True) == [fact.id]
    assert expired(days=30, kinds=("insight",)) == [rule.id]


def test_what_its_source_said_to_hold_for_a_time_holds_no_longer(lesson):
    clock = FixedClock()
    until = (clock() + timedelta(days=2)).isoformat()
    memory = lesson("rule").model_copy(
        update={"created_at": clock(), "status": "active", "extras": {"expires_at": until}}
    )
    abroad = memory.model_copy(update={"extras": {"expires_at": "2030-01-05T00:00:00+05:00"}})
    assert str(abroad.holds_until) == "2030-01-04 19:00:00+00:00"
    odd = memory.model_copy(update={"id": "mem-odd", "extras": {"expires_at": "soon"}})
    refiner = TtlRefiner(clock=clock)
    assert list(refiner.refine([memory, odd], FakeKit())) == []
    clock.tick(timedelta(days=3).total_seconds())
    [edit] = refiner.refine([memory, odd], FakeKit())
    assert (edit.ids, edit.status, until[:10] in edit.reason) == ((memory.id,), "quarantined", True)


def test_a_fact_that_gained_evidence_is_as_young_as_its_evidence(lesson, store, ledger, happened):
    clock = FixedClock(now() + timedelta(days=89))
    seen, unseen = (lesson(name, kind="fact", evidence=(happened(name),)) for name in ("seen", "unseen"))
    store.admit([seen, unseen])
    ledger.memories.corroborate(seen.id, lesson("", evidence=(happened("again"),)).evidence)
    _long_ago(ledger, timedelta(days=80), "admitted")

    def refine():
        return [
            (edit.memory_id, edit.status) for edit in store.refine([TtlRefiner(clock=clock)], _Kit(ledger))
        ]

    assert refine() == [(unseen.id, "quarantined")]
    clock.tick(timedelta(days=2).total_seconds())
    assert refine() == [(seen.id, "quarantined")]


def test_an_expired_fact_is_recalled_again_once_it_is_learnt_again(lesson, store, ledger):
    store.admit([lesson("price", "it costs 5", kind="fact")])
    _long_ago(ledger, timedelta(days=100), "admitted")
    [edit] = store.refine([TtlRefiner()], _Kit(ledger))
    assert store.recall("price") == []
    [answer] = store.admit([lesson("price", "it costs 5", kind="fact")])  # an import has no new evidence
    assert "active again" in answer.reason
    assert [hit.memory.id for hit in store.recall("price")] == [edit.memory_id]
    assert store.refine([TtlRefiner()], _Kit(ledger)) == []
    late = FixedClock(now() + timedelta(days=100))
    store.refine([TtlRefiner(clock=late)], _Kit(ledger))
    buried = UtilityPruneRefiner(UtilityPruneSettings(), clock=FixedClock(now() + timedelta(days=200)))
    assert [e.status for e in store.refine([buried], _Kit(ledger))] == ["tombstone"]
    store.admit([lesson("price", "it costs 5", kind="fact")])
    assert ledger.memories.get(edit.memory_id).status == "active"


def test_a_near_copy_of_an_expired_fact_brings_it_back(lesson, make_store, ledger):
    store = make_store(merge_above=0.7)
    store.admit([lesson("price of red shoes", "it costs 5", kind="fact")])
    _long_ago(ledger, timedelta(days=100), "admitted")
    [edit] = store.refine([TtlRefiner()], _Kit(ledger))
    [answer] = store.admit([lesson("price of red shoes now", "it costs 5", kind="fact")])
    assert answer.memory_id == edit.memory_id
    assert store.refine([TtlRefiner()], _Kit(ledger)) == []
    assert [hit.memory.id for hit in store.recall("price of red shoes")] == [edit.memory_id]


def test_what_a_person_put_away_stays_away_when_it_is_learnt_again(lesson, store, ledger):
    store.admit([fact := lesson("price", "it costs 5", kind="fact")])
    store.set_status(fact.id, "quarantined", "a person: ttl: it is wrong")
    store.admit([lesson("price", "it costs 5", kind="fact")])
    assert ledger.memories.get(fact.id).status == "quarantined"


def test_a_full_pool_keeps_old_words_that_came_in_today(lesson, store, ledger):
    foreign = [
        lesson(f"fact {n}").model_copy(update={"created_at": now() - timedelta(days=900)}) for n in range(3)
    ]
    store.admit(foreign)
    refiner = UtilityPruneRefiner(UtilityPruneSettings(max_pool=2))
    [edit] = store.refine([refiner], _Kit(ledger))
    assert "no room" in edit.reason
    (gone,) = [memory for memory in foreign if memory.id == edit.memory_id]
    store.admit([gone])
    assert ledger.memories.get(gone.id).status == "active"  # it is learnt again


def test_a_union_is_as_old_as_its_parts(lesson, store, ledger, happened):
    parts = [lesson(name, name, kind="fact", evidence=(happened(name),)) for name in ("a price", "a cost")]
    store.admit(parts)
    _long_ago(ledger, timedelta(days=100), "admitted")
    union = lesson("a price", "what it costs", kind="fact")
    ledger.memories.replace([part.id for part in parts], union, "they say the same")
    assert [edit.memory_id for edit in store.refine([TtlRefiner()], _Kit(ledger))] == [union.id]


def test_items_of_a_store_are_not_given_to_refiners(lesson, store, ledger):
    long_ago = now() - timedelta(days=400)
    item = lesson("item", kind="fact").model_copy(update={"created_at": long_ago, "origin": ITEM_ORIGIN})
    rule = lesson("rule").model_copy(update={"created_at": long_ago})
    store.admit([item, rule])
    seen = []

    class Looking:
        name = "looking"

        def refine(self, memories, kit):
            seen.extend(memory.id for memory in memories)
            return ()

    later = FixedClock(now() + timedelta(days=400))
    crowded = UtilityPruneRefiner(UtilityPruneSettings(max_pool=1), later)
    assert store.refine([Looking(), TtlRefiner(clock=later), crowded], FakeKit()) == []
    assert seen == [rule.id]
