"""Two tenants never see each other, whatever they are called and whatever they ask."""

from __future__ import annotations

import random

import pytest

from agentkd.memory.scope import sees
from agentkd.schema import Scope

NAMES = (
    "", "a", "b", "A", "ab", "a%", "a_", "%", "*", "a/b", "../a", '","app":"a', "a' OR 1=1 --", "ä", "a\x00b",
    "$ne", '{"$ne": ""}', "a b", " a", "\u202ea",
)  # fmt: skip
QUERIES = 2_000


@pytest.mark.parametrize("kind", ["exact", "chroma"])
def test_no_query_of_two_thousand_shows_what_is_not_the_askers(make_store, chroma, tmp_path, lesson, kind):
    dice = random.Random(kind)
    index = chroma(tmp_path / "i") if kind == "chroma" else None
    store = make_store(index, min_score=-1.0)

    def scope() -> Scope:
        return Scope(tenant=dice.choice(NAMES), app=dice.choice(NAMES[:4]), user=dice.choice(NAMES))

    scopes = [scope() for _ in range(60)]
    memories = [
        lesson(f"asks {at % 5} for {dice.choice(NAMES)} {own.tenant}", f"say {at}", scope=own)
        for at, own in enumerate(scopes)
    ]
    store.admit(memories)
    n_hits = 0
    for number in range(QUERIES // 2):
        asker = scopes[number % 60] if number % 2 else scope()
        visible = {memory.id for memory in memories if sees(asker, memory.scope)}
        found = store.recall(f"asks {number % 5} for {dice.choice(NAMES)}", k=100, scope=asker)
        assert {hit.memory.id for hit in found} == visible
        n_hits += len(found)
    assert n_hits > 500


def test_filters_in_a_query_are_words(make_store, lesson):
    store = make_store(min_score=-1.0)
    mine, theirs = Scope(tenant="mine"), Scope(tenant="theirs")
    store.admit([lesson("a secret of theirs", scope=theirs)])
    for text in (
        "tenant:theirs",
        '{"tenant": {"$ne": ""}}',
        "' OR tenant='theirs",
        f"{theirs.model_dump_json()}",
        "*",
    ):
        assert store.recall(f"a secret {text}", k=50, scope=mine) == []
        assert len(store.recall(f"a secret {text}", k=50, scope=theirs)) == 1


def test_a_user_whose_number_looks_like_that_of_a_card_is_found(make_store, lesson):
    store = make_store()
    ann = Scope(user="481204938120498123")
    (stored,) = store.admit([lesson("asks for the parcel", scope=ann)])
    (hit,) = store.recall("asks for the parcel", scope=ann)
    assert hit.memory.id == stored.memory_id
    assert hit.memory.scope == ann
    check = store.check()
    assert (check.n_missing, check.n_extra) == (0, 0)
