"""Rows weigh by what trials say of the memories under them."""

from __future__ import annotations

import pytest

from agentkd.builtins import components
from agentkd.compiler import LiftSelector, LiftSettings
from agentkd.config import Settings
from agentkd.schema import Utility

GOOD = Utility(recalls=40, wins=36, held_out=20, held_out_wins=4)
BAD = Utility(recalls=40, wins=4, held_out=20, held_out_wins=18)
EVEN = Utility(recalls=40, wins=20, held_out=20, held_out_wins=10)


@pytest.fixture
def weights(make, rows):
    """Return the weight of each task's row where these memories lie under it."""

    def compiled(utilities, **settings):
        runs = {name: make.run(name) for name in utilities}
        memories = [make.memory(name, runs[name], utility=utility) for name, utility in utilities.items()]
        inputs = make.inputs(list(runs.values()), memories=memories)
        card = make.compile(inputs, selectors=[LiftSelector(LiftSettings(**settings))])
        return {row.task_id: row.weight for row in rows(card)}, card.dropped

    return compiled


def test_rows_weigh_by_the_lift_of_their_memories(weights):
    found, dropped = weights({"good": GOOD, "even": EVEN, "new": Utility(), "seen": Utility(recalls=9)})
    assert found["good"] == pytest.approx(2.0, abs=0.01)
    assert found["even"] == pytest.approx(1.0, abs=0.1)
    assert found["new"] == found["seen"] == 1.0  # no trial has measured them
    assert dropped.get("selector lift", 0) == 0


def test_rows_of_what_harms_are_left_out(weights):
    found, dropped = weights({"bad": BAD, "even": EVEN})
    assert list(found) == ["even"]
    assert dropped["selector lift"] == 1
    doubtful = {"doubtful": Utility(recalls=10, wins=4, held_out=5, held_out_wins=3)}
    assert 0.0 < weights(doubtful)[0]["doubtful"] < 0.9
    assert weights(doubtful, drop_above=0.6)[0] == {}


def test_the_largest_weight_is_a_setting(weights):
    assert weights({"good": GOOD}, max_weight=1.0)[0] == {"good": 1.0}


def test_a_row_on_several_memories_takes_their_mean(make, rows):
    run = make.run("a")
    memories = [make.memory("one", run, utility=GOOD), make.memory("two", run, utility=EVEN)]
    (row,) = rows(make.compile(make.inputs([run], memories=memories), selectors=[LiftSelector()]))
    assert row.weight == pytest.approx(1.5, abs=0.06)
    assert len(row.extras["p_negative"]) == 2


def test_compiling_uses_it_unless_told_otherwise():
    assert Settings().compile.selectors == ("lift",)
    assert "lift" in {c.name for c in components() if c.kind == "selector"}
