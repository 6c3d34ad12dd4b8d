"""Store items are facts: they last, expire, have a history, and are recalled by their owner alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from graph_parts import Parts, open_parts
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from typing_extensions import TypedDict

from agentkd import hookimpl
from agentkd.errors import ConfigError, DataError
from agentkd.graph import AgentkdStore
from agentkd.schema import Memory
from agentkd.testing import FixedClock

MakeParts = Callable[..., Parts]
ANN, BOB = ("users", "ann"), ("users", "bob")


@pytest.fixture
def store(parts: Parts) -> AgentkdStore:
    return AgentkdStore(parts)


def memories(parts: Parts) -> list[Memory]:
    return parts.ledger.memories.list(current=False)


def test_what_is_put_comes_back_also_in_another_process(make_parts: MakeParts) -> None:
    value = {"text": "tea", "n": 10**30, "deep": [{"a": None, "b": [True, 0.1]}], "odd": "\x00 ☕ 🜁"}
    AgentkdStore(make_parts()).put(ANN, "prefs", value)
    item = AgentkdStore(make_parts()).get(ANN, "prefs")
    assert item is not None
    assert (item.namespace, item.key, item.value) == (ANN, "prefs", value)
    assert item.created_at == item.updated_at
    assert item.created_at.tzinfo is not None


def test_half_an_emoji_in_a_value_spoils_no_later_reading(store: AgentkdStore) -> None:
    store.put(ANN, "cut", {"content": "Ann likes \ud83d tea.", "half \udc00": 1})
    item = store.get(ANN, "cut")
    assert item is not None
    assert item.value == {"content": "Ann likes \ufffd tea.", "half \ufffd": 1}
    (found,) = store.search(ANN, query="what tea does Ann like?")
    assert json.dumps(found.value, ensure_ascii=False).encode()


def test_a_tuple_comes_back_as_a_list_and_the_caller_may_change_what_it_put(store: AgentkdStore) -> None:
    value: dict[str, Any] = {"pair": (1, 2), "list": [1]}
    store.put(ANN, "k", value)
    value["list"].append(2)
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"pair": [1, 2], "list": [1]}


def test_the_first_put_gives_the_age_and_the_last_one_the_order(parts: Parts) -> None:
    clock = FixedClock()
    store = AgentkdStore(parts, clock=clock)
    first = clock()
    store.put(ANN, "old", {"n": 1})
    clock.tick(60)
    store.put(ANN, "new", {"n": 1})
    assert [item.key for item in store.search(ANN)] == ["new", "old"]
    clock.tick(60)
    store.put(ANN, "old", {"n": 2})
    item = store.get(ANN, "old")
    assert item is not None
    assert (item.created_at, item.updated_at) == (first, clock())
    assert [item.key for item in store.search(ANN)] == ["old", "new"]


def test_a_batch_reads_before_it_writes_and_the_last_put_of_a_key_wins(store: AgentkdStore) -> None:
    store.put(ANN, "k", {"n": 0})
    ops = [PutOp(ANN, "k", {"n": 1}), GetOp(ANN, "k"), SearchOp(ANN), PutOp(ANN, "k", {"n": 2})]
    answers = store.batch(ops)
    assert answers[0] is None
    assert answers[3] is None
    assert answers[1].value == {"n": 0}
    assert [item.value for item in answers[2]] == [{"n": 0}]
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"n": 2}


@pytest.mark.parametrize(
    "value",
    [{"n": float("nan")}, {"n": float("inf")}, {1: "a"}, {"deep": {2: "a"}}, {"o": object()}, {"s": {1}}],
    ids=["nan", "infinite", "key", "deep-key", "object", "set"],
)
def test_what_json_cannot_say_is_refused_and_nothing_of_its_batch_is_kept(
    store: AgentkdStore, value: dict[Any, Any]
) -> None:
    with pytest.raises(DataError, match=r"`bad` in `users\.ann`"):
        store.batch([PutOp(ANN, "good", {"n": 1}), PutOp(ANN, "bad", value)])
    assert store.search(()) == []


def test_a_value_that_holds_itself_is_refused(store: AgentkdStore) -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    with pytest.raises(DataError, match="holds itself"):
        store.put(ANN, "k", loop)


# Namespaces


@pytest.mark.parametrize("namespace", [(), ("a.b",), ("",), ("a", ""), ("langgraph",), (1,), ("a\x00",)])
def test_a_namespace_that_langgraph_refuses_is_refused(store: AgentkdStore, namespace: Any) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.put(namespace, "k", {})


def test_a_name_that_is_no_unicode_is_refused_by_name_and_nothing_of_the_batch_is_stored(
    store: AgentkdStore,
) -> None:
    half, good = "a\ud800", PutOp(ANN, "good", {})
    condition = MatchCondition("prefix", (half,))
    for op in (
        PutOp((half,), "k", {}),
        PutOp(ANN, half, {}),
        GetOp(ANN, half),
        SearchOp((half,)),
        ListNamespacesOp(match_conditions=(condition,)),
    ):
        with pytest.raises(DataError, match="no Unicode text"):
            store.batch([good, op])
    assert store.get(ANN, "good") is None


def test_a_raw_operation_cannot_reach_into_another_namespace(store: AgentkdStore) -> None:
    store.put(ANN, "k", {"n": 1})
    for op in (GetOp(("users.ann",), "k"), PutOp(("users.ann",), "k", None), SearchOp(("users.ann",))):
        with pytest.raises(InvalidNamespaceError):
            store.batch([op])
    assert store.get(ANN, "k") is not None


@pytest.mark.parametrize(
    "other", [("user",), ("users1",), ("Users",), ("users%",), ("user_",), ("%",), ("*",), ('users","ann',)]
)
def test_a_prefix_matches_whole_labels_only(store: AgentkdStore, other: tuple[str, ...]) -> None:
    store.put(ANN, "k", {"n": 1})
    assert store.search(other) == []
    store.put(other, "k", {"n": 2})
    assert [item.namespace for item in store.search(("users",))] == [ANN]
    assert [item.namespace for item in store.search(other)] == [other]


def test_workspaces_of_two_tenants_never_see_each_other_in_one_ledger(make_parts: MakeParts) -> None:
    one = make_parts(scope={"tenant": "one"})
    two = make_parts(scope={"tenant": "two"})
    stores = [AgentkdStore(one), AgentkdStore(two)]
    for name, store in zip(("one", "two"), stores, strict=True):
        store.put(ANN, "k", {"content": f"Ann of {name} likes tea"})
    assert [[item.value["content"] for item in store.search(())] for store in stores] == [
        ["Ann of one likes tea"],
        ["Ann of two likes tea"],
    ]
    assert [len(store.search((), query="tea")) for store in stores] == [1, 1]
    found = one.memory.recall("likes tea", scope=stores[0].scope(ANN))
    assert [hit.memory.content for hit in found] == ["Ann of one likes tea"]
    stores[0].delete(ANN, "k")
    assert stores[1].get(ANN, "k") is not None
    assert stores[0].list_namespaces() == []


def test_scopes_of_different_namespaces_are_different(make_parts: MakeParts) -> None:
    bare, owned = AgentkdStore(make_parts()), AgentkdStore(make_parts(scope={"user": "a"}))
    scopes = [bare.scope(("a", "b")), bare.scope(("a",)), bare.scope(("ab",)), owned.scope(("b",))]
    assert len(set(scopes)) == 4


# Filters


@pytest.mark.parametrize(
    "bad",
    [
        {"$where": "1 == 1"},
        {"$or": [{"n": 1}]},
        {"n": {"$where": "this.n"}},
        {"n": {"$gt": 1, "x": 2}},
        {"n": {"deep": {"$regex": ".*"}}},
        {"n": [{"$exists": True}]},
        {1: 2},
    ],
    ids=str,
)
def test_an_unknown_operator_is_an_error_that_names_what_is_known(store: AgentkdStore, bad: Any) -> None:
    with pytest.raises(DataError, match=r"\$eq|strings"):
        store.search((), filter=bad)


@pytest.mark.parametrize(
    "key", ["n') OR 1=1 --", "n' OR '1'='1", "n; DROP TABLE store_items", "%", "_", '"', "n.x", "\x00", ""]
)
def test_a_hostile_field_name_is_only_a_name(store: AgentkdStore, key: str) -> None:
    store.put(ANN, "plain", {"n": 1})
    assert store.search((), filter={key: 1}) == []
    store.put(ANN, "same", {key: 1})
    assert [item.key for item in store.search((), filter={key: 1})] == ["same"]
    assert len(store.search(())) == 2


def test_an_order_asked_of_what_has_none_finds_the_others(store: AgentkdStore) -> None:
    for key, value in {"a": {"n": 5}, "b": {"n": "7"}, "c": {"n": None}, "d": {}, "e": {"n": [1]}}.items():
        store.put(ANN, key, value)
    assert {i.key for i in store.search((), filter={"n": {"$gt": 4}})} == {"a", "b"}
    store.put(ANN, "f", {"day": "2026-02-01"})
    assert [i.key for i in store.search((), filter={"day": {"$lt": "2026-03-01", "$gte": "2026-02-01"}})] == [
        "f"
    ]


def test_a_filter_narrows_a_semantic_search(store: AgentkdStore) -> None:
    store.put(ANN, "a", {"text": "green tea", "n": 1})
    store.put(ANN, "b", {"text": "green tea", "n": 2})
    found = store.search(("users",), query="green tea", filter={"n": {"$gt": 1}})
    assert [(item.key, item.score is not None) for item in found] == [("b", True)]


# Search by meaning


def test_fields_may_be_named_per_item_and_an_unindexed_one_has_no_score(store: AgentkdStore) -> None:
    store.put(ANN, "one", {"a": "green tea", "b": "black coffee"}, index=["a"])
    store.put(ANN, "two", {"a": "black coffee", "b": "green tea"}, index=["a"])
    store.put(ANN, "none", {"a": "green tea"}, index=False)
    found = store.search(ANN, query="green tea")
    assert [item.key for item in found] == ["one", "two", "none"]
    assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert found[2].score is None
    store.put(ANN, "one", {"a": "nothing", "b": "black coffee"}, index=["a"])
    assert store.search(ANN, query="green tea")[0].score < 0.9  # an old text leaves no vector behind


@pytest.mark.parametrize("index", ["text", 5, [1], True])
def test_an_index_that_names_no_paths_is_refused(store: AgentkdStore, index: Any) -> None:
    with pytest.raises(DataError, match="`index`"):
        store.put(ANN, "k", {"text": "tea"}, index=index)


# Time to live


def test_an_item_expires_and_reading_renews_it(parts: Parts) -> None:
    clock = FixedClock()
    store = AgentkdStore(parts, clock=clock)
    store.put(ANN, "k", {"content": "Ann is in town"}, ttl=10)
    clock.tick(9 * 60)
    assert store.get(ANN, "k", refresh_ttl=False) is not None
    assert len(store.search(ANN)) == 1  # renews
    clock.tick(9 * 60)
    assert store.get(ANN, "k") is not None  # renews
    clock.tick(11 * 60)
    assert store.get(ANN, "k") is None
    assert store.search(ANN) == []
    assert store.search(ANN, query="town") == []
    assert store.list_namespaces() == []
    assert store.sweep_ttl() == 1
    assert store.sweep_ttl() == 0
    assert parts.memory.recall("Ann is in town", scope=store.scope(ANN)) == []
    assert [memory.status for memory in memories(parts)] == ["tombstone"]


def test_the_default_time_to_live_holds_and_a_put_sweeps(parts: Parts) -> None:
    clock = FixedClock()
    store = AgentkdStore(parts, ttl={"default_ttl": 1, "refresh_on_read": False}, clock=clock)
    store.put(ANN, "k", {"n": 1})
    store.put(ANN, "kept", {"n": 1}, ttl=None)
    clock.tick(40)
    assert store.get(ANN, "k") is not None
    clock.tick(40)
    store.put(BOB, "k", {"n": 1})
    assert store.sweep_ttl() == 0
    assert [item.key for item in store.search(ANN)] == ["kept"]


def test_an_expired_key_begins_anew(parts: Parts) -> None:
    clock = FixedClock()
    store = AgentkdStore(parts, clock=clock)
    store.put(ANN, "k", {"n": 1}, ttl=1)
    clock.tick(61)
    store.put(ANN, "k", {"n": 2})
    item = store.get(ANN, "k")
    assert item is not None
    assert item.created_at == clock()
    assert sorted(memory.status for memory in memories(parts)) == ["active", "tombstone"]


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), 1e308])
def test_a_time_to_live_of_nothing_is_refused(store: AgentkdStore, ttl: float) -> None:
    with pytest.raises(DataError, match="time to live"):
        store.put(ANN, "k", {}, ttl=ttl)


# Items are memories


def test_an_item_is_recalled_in_the_scope_of_its_namespace_and_nowhere_else(
    parts: Parts, store: AgentkdStore
) -> None:
    store.put(ANN, "drink", {"content": "Ann likes green tea"})
    store.put(BOB, "drink", {"kind": "Memory", "content": {"content": "Bob likes green tea"}})
    asked = {who: parts.memory.recall("likes green tea", scope=store.scope(who)) for who in (ANN, BOB)}
    assert [hit.memory.content for hit in asked[ANN]] == ["Ann likes green tea"]
    assert [hit.memory.content for hit in asked[BOB]] == ["Bob likes green tea"]
    assert parts.memory.recall("likes green tea") == []
    assert "\nKnown: Ann likes green tea\n" in parts.memory.render(asked[ANN])


def test_an_item_is_a_private_fact_with_its_history(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "k", {"n": 1})
    store.put(ANN, "k", {"n": 2})
    store.put(ANN, "k", {"n": 2})  # says nothing new
    first, second = memories(parts)
    assert [(m.kind, m.privacy, m.origin, m.version) for m in (first, second)] == [
        ("fact", "private", "store", 1),
        ("fact", "private", "store", 2),
    ]
    assert second.extras["value"] == {"n": 2}
    assert [m.id for m in parts.memory.history(second.id)] == [first.id, second.id]
    assert second.parent == first.id
    assert [e.kind for e in parts.ledger.memories.events(memory_id=first.id)] == ["admitted", "superseded"]


def test_a_revoked_memory_is_gone_from_the_store_too(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "k", {"content": "Ann owes us money"})
    parts.memory.revoke(memories(parts)[0].id, "not true")
    assert store.get(ANN, "k") is None
    assert store.search((), query="money") == []
    assert store.list_namespaces() == []
    store.put(ANN, "k", {"content": "Ann owes us nothing"})
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"content": "Ann owes us nothing"}


def test_deleting_lays_the_memory_to_rest_and_keeps_the_history(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "k", {"content": "Ann likes tea"})
    store.delete(ANN, "k")
    store.delete(ANN, "k")
    store.delete(ANN, "never there")
    assert parts.memory.recall("Ann likes tea", scope=store.scope(ANN)) == []
    (memory,) = memories(parts)
    assert (memory.status, memory.content) == ("tombstone", "Ann likes tea")
    store.put(ANN, "k", {"content": "Ann likes tea"})
    assert len(parts.memory.recall("Ann likes tea", scope=store.scope(ANN))) == 1


def test_equal_values_under_two_keys_are_two_items(parts: Parts, store: AgentkdStore) -> None:
    for key in ("a", "b"):
        store.put(ANN, key, {"content": "the same words"})
    assert len(store.search(ANN)) == 2
    store.delete(ANN, "a")
    assert [item.key for item in store.search(ANN)] == ["b"]
    assert len(parts.memory.recall("the same words", scope=store.scope(ANN))) == 1


def test_an_unindexed_item_is_not_recalled_either(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "k", {"content": "a secret hobby"}, index=False)
    assert store.get(ANN, "k") is not None
    assert parts.memory.recall("a secret hobby", scope=store.scope(ANN)) == []


def test_a_secret_comes_back_redacted_and_is_nowhere_on_disk(
    parts: Parts, store: AgentkdStore, tmp_path: Any
) -> None:
    secret = "sk-" + "a1B2" * 8
    store.put(ANN, "k", {"deep": [{"token": f"use {secret}"}]})
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"deep": [{"token": "use [redacted:api-key]"}]}
    assert secret not in json.dumps([m.model_dump(mode="json") for m in memories(parts)])
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.glob("ledger.db*"))


def test_a_plugin_may_refuse_an_item_and_the_caller_hears_so(make_parts: MakeParts) -> None:
    class NoPasswords:
        @hookimpl
        def admit_memory(self, memory: Memory) -> bool | None:
            return False if "password" in memory.content else None

    store = AgentkdStore(make_parts(NoPasswords()))
    with pytest.raises(DataError, match="refused by plugin `NoPasswords`"):
        store.batch([PutOp(ANN, "ok", {"n": 1}), PutOp(ANN, "bad", {"content": "the password is 1"})])
    assert store.search(()) == []


def test_a_search_over_more_items_than_are_kept_embeds_each_once(
    parts: Parts, store: AgentkdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentkd.graph.store._KEPT_VECTORS", 20)
    for name, n in ((ANN, 24), (BOB, 3)):
        store.batch([PutOp(name, str(number), {"content": f"note {number}"}) for number in range(n)])
    read: list[int] = []
    holding = parts.ledger.items.holding
    monkeypatch.setattr(
        parts.ledger.items, "holding", lambda *a: (read.append(len(list(a[1]))), holding(*a))[1]
    )
    for _ in range(3):
        store.search(ANN, query="note", limit=1)
    assert read == [24, 1, 4, 1, 4, 1]  # what is not kept, and the page
    store.search(BOB, query="note", limit=1)
    assert read[6:] == [3, 1]


def test_others_can_write_while_a_plugin_looks_at_an_item(make_parts: MakeParts, tmp_path: Path) -> None:
    class Slow:
        @hookimpl
        def admit_memory(self, memory: Memory) -> None:
            with closing(sqlite3.connect(tmp_path / "ledger.db", timeout=0.2)) as other:
                other.execute("begin immediate")

    store = AgentkdStore(make_parts(Slow()))
    store.batch([PutOp(ANN, "first", {"n": 1}), PutOp(ANN, "second", {"n": 2})])
    assert [item.key for item in store.search(())] == ["second", "first"]


def test_an_item_whose_memory_was_replaced_by_hand_can_be_put_again(
    parts: Parts, store: AgentkdStore
) -> None:
    store.put(ANN, "k", {"content": "Ann likes tea"})
    (old,) = memories(parts)
    parts.ledger.memories.supersede(old.id, old.model_copy(update={"id": "mem-by-hand"}))
    store.put(ANN, "k", {"content": "Ann likes coffee"})
    item = store.get(ANN, "k")
    assert item is not None
    assert item.value == {"content": "Ann likes coffee"}


def test_the_index_may_be_rebuilt_at_any_time(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "k", {"content": "Ann likes tea"})
    parts.memory.rebuild()
    assert len(parts.memory.recall("Ann likes tea", scope=store.scope(ANN))) == 1
    assert parts.memory.audit() is not None


# Threads, tasks, graphs


def test_many_threads_lose_nothing(tmp_path: Any) -> None:
    parts = open_parts(tmp_path / "ledger.db")
    store, n = AgentkdStore(parts), 20

    def work(name: str) -> None:
        for at in range(n):
            store.put(("threads", name), str(at), {"at": at})
            store.put(("threads", "shared"), str(at), {"by": name})
            store.search(("threads",), limit=5)

    threads = [threading.Thread(target=work, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.search((), limit=1000)) == 5 * n
    numbers = {m.extras["key"] for m in parts.ledger.memories.list() if m.extras["namespace"][1] == "shared"}
    assert len(numbers) == n
    parts.ledger.close()


def test_the_asynchronous_names_do_the_same(store: AgentkdStore) -> None:
    async def use() -> None:
        await asyncio.gather(*(store.aput(ANN, str(n), {"n": n, "text": "tea"}) for n in range(5)))
        item = await store.aget(ANN, "3")
        assert item is not None
        assert item.value["n"] == 3
        assert len(await store.asearch(("users",), query="tea", limit=3)) == 3
        await store.adelete(ANN, "3")
        assert await store.aget(ANN, "3") is None
        assert await store.alist_namespaces(prefix=("users",)) == [ANN]

    asyncio.run(use())


def test_a_graph_uses_it_as_its_store(store: AgentkdStore) -> None:
    class State(TypedDict):
        said: str

    def remember(state: State) -> State:
        store = get_store()
        store.put(ANN, "said", {"content": state["said"]})
        return {"said": store.search(ANN, query=state["said"])[0].value["content"]}

    graph = StateGraph(State)
    graph.add_node("remember", remember)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", END)
    assert graph.compile(store=store).invoke({"said": "hello"}) == {"said": "hello"}
    assert store.get(ANN, "said") is not None


def test_what_is_no_workspace_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no `ledger`"):
        AgentkdStore(object())  # type: ignore[arg-type]


def test_a_search_may_ask_for_more_than_there_can_be(store: AgentkdStore) -> None:
    store.put(ANN, "k", {"n": 1})
    assert len(store.search(ANN, limit=10**20)) == 1
    assert store.search(ANN, limit=10**20, offset=10**20) == []


def test_an_undone_version_leaves_the_key_with_the_one_before(parts: Parts, store: AgentkdStore) -> None:
    for drink in ("tea", "coffee"):
        store.put(ANN, "drink", {"content": f"Ann drinks {drink}"})
    (coffee,) = parts.ledger.memories.list()
    parts.memory.undo(coffee.id, "a joke")

    def known() -> tuple[Any, list[str]]:
        item = store.get(ANN, "drink")
        hits = parts.memory.recall("What does Ann drink?", scope=store.scope(ANN))
        return item and item.value["content"], [hit.memory.content for hit in hits]

    assert known() == ("Ann drinks tea", ["Ann drinks tea"])
    for drink in ("coffee", "milk"):
        store.put(ANN, "drink", {"content": f"Ann drinks {drink}"})
        assert known() == (f"Ann drinks {drink}", [f"Ann drinks {drink}"])
    store.delete(ANN, "drink")
    assert known() == (None, [])


def test_a_deleted_value_comes_back_by_its_key_alone(parts: Parts, store: AgentkdStore) -> None:
    store.put(ANN, "drink", {"content": "Ann drinks tea"})
    (tea,) = parts.ledger.memories.list()
    store.delete(ANN, "drink")
    for back in (parts.memory.undo, parts.memory.activate):
        with pytest.raises(DataError, match="was deleted"):
            back(tea.id, "a mistake")
    store.put(ANN, "drink", {"content": "Ann drinks tea"})
    (hit,) = parts.memory.recall("Ann drinks", scope=store.scope(ANN))
    assert hit.memory.content == "Ann drinks tea"


def test_no_earlier_value_of_a_deleted_key_comes_back(parts: Parts, store: AgentkdStore) -> None:
    for drink in ("tea", "coffee"):
        store.put(ANN, "drink", {"content": f"Ann drinks {drink}"})
    store.delete(ANN, "drink")
    for memory in memories(parts):
        with pytest.raises(DataError, match="was deleted"):
            parts.memory.undo(memory.id, "a mistake")
    assert parts.memory.recall("What does Ann drink?", scope=store.scope(ANN)) == []
