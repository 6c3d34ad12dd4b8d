"""When refiners change memories; nothing is ever deleted."""

from __future__ import annotations

from datetime import timedelta

from agentkd.ledger.item import ITEM_ORIGIN
from agentkd.memory import TtlRefiner, TtlSettings, UtilityPruneRefiner, UtilityPruneSettings
from agentkd.schema import Utility, now
from agentkd.testing import FakeKit, FixedClock


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
