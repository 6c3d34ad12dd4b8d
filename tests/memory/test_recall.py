"""What a recall finds, for whom, and for which checkpoint."""

from __future__ import annotations

import pytest

from agentkd.errors import ConfigError
from agentkd.memory import ExactIndex
from agentkd.memory.counter import counter_memory
from agentkd.schema import Scope


@pytest.fixture(params=["exact", "chroma"])
def any_store(request, make_store, chroma, tmp_path):
    return make_store(ExactIndex() if request.param == "exact" else chroma(tmp_path / "index"))


def ids(hits):
    return [hit.memory.id for hit in hits]


def test_the_most_similar_comes_first_and_k_bounds_the_number(any_store, lesson):
    near, middle, far = (
        lesson("book a table for two people"),
        lesson("book a table"),
        lesson("book a flight"),
    )
    any_store.admit([far, near, middle])
    assert ids(any_store.recall("book a table for two people")) == [near.id, middle.id, far.id]
    assert ids(any_store.recall("book a table for two people", k=1)) == [near.id]
    assert any_store.recall("book a table for two people", k=0) == []


def test_what_is_far_behind_the_best_is_left_out_where_that_is_asked_for(make_store, lesson):
    same, other = lesson("book a table for two people"), lesson("book a flight")
    found = {}
    for gap in (None, 0.2):
        store = make_store(ExactIndex(), max_gap=gap)
        store.admit([same, other])
        found[gap] = ids(store.recall("book a table for two people"))
        found[gap, "far"] = ids(store.recall("book a flight for two"))
    assert found[None] == [same.id, other.id]
    assert found[0.2] == [same.id]
    assert other.id in found[0.2, "far"]


def test_a_memory_is_found_by_its_best_key_and_only_once(any_store, lesson):
    memory = lesson("restaurant request", task="reserve seats at luigi", tools="book_table")
    any_store.admit([memory])
    [hit] = any_store.recall("reserve seats at luigi")
    assert (hit.key, round(hit.score, 3)) == ("task", 1.0)


def test_recall_abstains_where_nothing_is_similar_enough(any_store, lesson):
    any_store.admit([lesson("book a table")])
    assert any_store.recall("integrate x squared") == []


def test_excluded_memories_make_room_for_the_next(any_store, lesson):
    memories = [lesson(f"book a table number {i}") for i in range(12)]
    any_store.admit(memories)
    own = {m.id for m in memories[:10]}
    assert set(ids(any_store.recall("book a table number", k=4, exclude=own))) == {
        m.id for m in memories[10:]
    }


def test_many_states_get_what_each_would_get_alone(any_store, lesson):
    any_store.admit(
        [lesson(f"{verb} a {noun}") for verb in ("book", "sell") for noun in ("car", "boat", "ring")]
    )
    states = ["book a car", "sell a ring", "prove a theorem", "book a boat"]
    exclude = [(), any_store.recall("sell a ring", k=1)[0].memory.id, (), ()]
    exclude = [(), [exclude[1]], (), ()]
    together = any_store.recall_many(states, k=2, exclude=exclude)
    assert together == [
        any_store.recall(state, k=2, exclude=own) for state, own in zip(states, exclude, strict=True)
    ]
    with pytest.raises(ConfigError):
        any_store.recall_many(states, exclude=[()])


def test_a_memory_is_seen_where_every_set_field_of_its_scope_is_equal(any_store, lesson):
    scopes = [
        Scope(),
        Scope(app="shop"),
        Scope(app="shop", user="ann"),
        Scope(tenant="acme"),
        Scope(user="bob"),
    ]
    memories = {scope: lesson("book a table", f"note {i}", scope=scope) for i, scope in enumerate(scopes)}
    any_store.admit(memories.values())

    def seen(**fields):
        found = ids(any_store.recall("book a table", k=9, scope=Scope(**fields)))
        return {scope for scope in scopes if memories[scope].id in found}

    assert seen() == {scopes[0]}
    assert seen(app="shop") == set(scopes[:2])
    assert seen(app="shop", user="ann", tenant="acme") == set(scopes[:4])
    assert seen(user="bob", agent="x") == {scopes[0], scopes[4]}
    assert seen(app="SHOP") == {scopes[0]}


def test_compiled_stays_and_retired_leaves_for_its_checkpoint_alone(any_store, lesson):
    kept, left = lesson("book a table", "a"), lesson("book a table", "b")
    any_store.admit([kept, left])
    any_store.set_status(kept.id, "compiled", "in the weights", checkpoint="student@1")
    any_store.set_status(left.id, "retired", "in the weights", checkpoint="student@1")
    state = "book a table"
    assert ids(any_store.recall(state, checkpoint="student@1")) == [kept.id]
    assert set(ids(any_store.recall(state, checkpoint="student@1", also=["retired"]))) == {kept.id, left.id}
    for serving in ("base", "student@2"):  # a roll-back and a new student see both again
        assert set(ids(any_store.recall(state, checkpoint=serving))) == {kept.id, left.id}
    with pytest.raises(ConfigError, match="quarantined"):
        any_store.recall(state, also=["quarantined"])


def test_the_place_of_a_retired_memory_goes_only_to_what_is_new_or_never_taught(make_store, lesson):
    store = make_store(hybrid=False, lift_weight=0.0)
    first, second, third = (
        lesson("book a table" + rest) for rest in ("", " for two", " for my whole family")
    )
    untaught = lesson("book a table for the neighbours of my oldest friend")
    store.admit([first, second, third, untaught])
    store.set_status(first.id, "retired", "in the weights", checkpoint="student@1")
    for memory in (second, third):
        store.set_status(memory.id, "compiled", "in the weights", checkpoint="student@1")

    def recalled(store, **asked):
        return ids(store.recall("book a table", k=2, checkpoint="student@1", **asked))

    assert recalled(store) == [second.id]  # the others were not among the two best, and are not now
    assert recalled(store, also=["retired"]) == [first.id, second.id]
    assert recalled(make_store(hybrid=False, lift_weight=0.0, refill=True)) == [second.id, third.id]
    assert ids(store.recall("book a table", k=2)) == [first.id, second.id]
    news = lesson("book a table near the stairs of my house")
    store.admit([news])
    assert recalled(store) == [second.id, news.id]  # no row can have taught it
    store.set_status(news.id, "compiled", "in the weights", checkpoint="student@1")
    assert recalled(store) == [second.id]
    for apart in (
        lesson("book a table near the old church of my town", kind="fact"),
        lesson("book a table near the old mill of my town").model_copy(update={"privacy": "private"}),
        lesson("book a table near the old lake of my town", kind="preference", scope=Scope(user="ann")),
    ):
        store.admit([apart])
        store.set_status(news.id, "compiled", "in its weights too", checkpoint="student@2")  # it comes after
        store.set_status(first.id, "retired", "in the weights", checkpoint="student@2")
        hits = store.recall("book a table", k=2, checkpoint="student@2", scope=Scope(user="ann"))
        assert ids(hits) == [second.id, apart.id]
        store.set_status(apart.id, "quarantined", "done with")


def test_counter_memories_take_no_place_where_they_are_not_shown(make_store, lesson, ledger):
    store = make_store(hybrid=False)
    first, second = lesson("book a table"), lesson("book a table for two")
    counter = counter_memory(lesson("book a table", "x"), is_quoted=True)
    store.admit([first, second])
    ledger.memories.admit([counter])
    store.set_status(first.id, "retired", "in the weights", checkpoint="student@1")
    store.set_status(second.id, "compiled", "in the weights", checkpoint="student@1")
    assert ids(store.recall("book a table", k=2, checkpoint="student@1")) == [second.id]
    store.set_status(counter.id, "active", "it masks", checkpoint="student@1")
    assert ids(store.recall("book a table", k=2, checkpoint="student@1")) == [counter.id]


def test_quarantine_holds_whatever_a_checkpoint_says(any_store, lesson):
    memory = lesson("book a table")
    any_store.admit([memory])
    any_store.set_status(memory.id, "active", "refreshed", checkpoint="student@1")
    any_store.set_status(memory.id, "quarantined", "it misleads")
    assert any_store.recall("book a table", checkpoint="student@1", also=["compiled", "retired"]) == []


def test_statuses_set_in_the_ledger_directly_count_at_once(any_store, lesson, ledger):
    memory = lesson("book a table")
    any_store.admit([memory])
    ledger.memories.set_status(memory.id, "quarantined", "by another process")
    assert any_store.recall("book a table") == []
    ledger.memories.set_status(memory.id, "active", "by another process")
    assert ids(any_store.recall("book a table")) == [memory.id]


def test_one_active_memory_is_found_among_hundreds_of_retired_ones(any_store, lesson, ledger):
    retired = [lesson(f"book a table {i}", tools="book_table") for i in range(300)]
    last = lesson("book a boat", task="a table on a boat", kind="fact")
    any_store.admit([*retired, last])
    with ledger.transaction():
        for memory in retired:
            ledger.memories.set_status(memory.id, "retired", "learnt", checkpoint="student@1")
    assert ids(any_store.recall("book a table 7", k=3, checkpoint="student@1")) == [last.id]
