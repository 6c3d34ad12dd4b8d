"""When refiners quarantine, and that their arithmetic is right."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd.memory import TtlRefiner, TtlSettings, UtilityPruneRefiner, UtilityPruneSettings
from agentkd.memory.refine import probability_below
from agentkd.schema import Utility
from agentkd.testing import FakeKit, FixedClock


@pytest.fixture
def used(lesson):
    def make(name, recalls, wins, held_out=0, held_out_wins=0, status="active"):
        utility = Utility(recalls=recalls, wins=wins, held_out=held_out, held_out_wins=held_out_wins)
        return lesson(name).model_copy(update={"utility": utility, "status": status})

    return make


def pruned(memories, **settings):
    refiner = UtilityPruneRefiner(UtilityPruneSettings(**settings))
    return [edit[0] for edit in refiner.refine(memories, FakeKit())]


def test_a_memory_that_loses_where_others_win_is_quarantined(used):
    bad, good = used("bad", 8, 1), used("good", 40, 34)
    refiner = UtilityPruneRefiner()
    [(memory_id, status, reason)] = refiner.refine([bad, good], FakeKit())
    assert (memory_id, status) == (bad.id, "quarantined")
    assert "1 of 8" in reason
    assert "34 of 40" in reason


@pytest.mark.parametrize(("recalls", "wins"), [(4, 0), (8, 6), (0, 0)])
def test_little_or_good_evidence_spares_a_memory(used, recalls, wins):
    assert pruned([used("bad", recalls, wins), used("good", 40, 34)]) == []


def test_a_hard_suite_is_not_the_memory_s_fault(used):
    assert pruned([used("one", 8, 1), used("rest", 200, 30)]) == []


def test_without_a_base_rate_nothing_is_judged(used):
    assert pruned([used("one", 8, 0), used("two", 5, 5)]) == []
    assert pruned([]) == []


def test_withheld_tasks_are_the_better_base_rate(used):
    memories = [used("one", 20, 8), used("rest", 200, 60, held_out=50, held_out_wins=45)]
    assert memories[0].id in pruned(memories)


def test_only_active_memories_are_pruned(used):
    assert pruned([used("bad", 9, 0, status="retired"), used("good", 40, 40)]) == []


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.0, 1.0))
def test_the_posterior_is_a_probability_and_falls_with_wins(n, wins, rate):
    wins = min(wins, n)
    value = probability_below(rate, wins, n)
    assert 0.0 <= value <= 1.0
    if wins < n:
        assert probability_below(rate, wins + 1, n) <= value + 1e-12


def test_the_posterior_agrees_with_sampling():
    drawn = np.random.default_rng(0).beta(1 + 3, 1 + 9, 200_000)
    assert probability_below(0.4, 3, 12) == pytest.approx((drawn < 0.4).mean(), abs=0.005)


def test_old_facts_expire_and_used_ones_are_spared_when_asked(lesson):
    clock = FixedClock()
    fact = lesson("price", kind="fact").model_copy(update={"created_at": clock(), "status": "active"})
    rule = lesson("rule").model_copy(update={"created_at": clock(), "status": "active"})
    known = fact.model_copy(update={"utility": Utility(recalls=1), "id": "mem-used"})
    clock.tick(timedelta(days=31).total_seconds())

    def expired(**settings):
        refiner = TtlRefiner(TtlSettings(**settings), clock)
        return [edit[0] for edit in refiner.refine([fact, rule, known], FakeKit())]

    assert expired() == []
    assert expired(days=30) == [fact.id, known.id]
    assert expired(days=30, unused_only=True) == [fact.id]
    assert expired(days=30, kinds=("insight",)) == [rule.id]
