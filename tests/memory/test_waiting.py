"""Vectors wait in memory for the graph: found at once, written in idle moments, never lost, never twice."""

from __future__ import annotations

import time

import numpy as np
import pytest

from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.memory import MemoryStore, recall, shelf
from agentkd.memory.settling import Settling
from agentkd.plugins import PluginHost
from agentkd.schema import Scope


def vectors(n, d=8):
    made = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def put(index, rows, table):
    names = [f"mem-{row}" for row in rows]
    index.add([f"{name}/task" for name in names], table[list(rows)], names, ["task"] * len(names), "p")


def found(index, table, k):
    return [[hit.memory_id for hit in hits] for hits in index.query(table, k, "p")]


def open_store(ledger, index):
    return MemoryStore(ledger, index, HashingEmbedder(), MemorySettings(), PluginHost(auto=False).hooks)


def die(store):
    """End a store as a killed process does: nothing is written any more, the lock is free."""
    store._settling.stop()
    store._index._chroma.close()


@pytest.mark.parametrize("small", [10_000, 2])
def test_what_waits_is_found_beside_what_is_written_and_once(chroma, tmp_path, monkeypatch, small):
    monkeypatch.setattr(shelf, "_SMALL", small)
    index, table = chroma(tmp_path), vectors(12)
    put(index, range(6), table)
    index.settle(6)
    put(index, range(4, 12), table)
    assert index.waiting() == 8
    exact = [[f"mem-{row}" for row in np.argsort(-(table @ vector), kind="stable")[:5]] for vector in table]
    assert found(index, table, 5) == exact
    assert index.settle(3) == 5
    assert found(index, table, 5) == exact
    assert index.settle(100) == 0
    assert found(index, table, 5) == exact
    assert index.count() == 12


@pytest.mark.parametrize("small", [10_000, 2])
def test_what_is_deleted_while_it_waits_never_comes_back(chroma, tmp_path, monkeypatch, small):
    monkeypatch.setattr(shelf, "_SMALL", small)
    index, table = chroma(tmp_path), vectors(6)
    put(index, range(6), table)
    index.delete(["mem-2"], "p")
    assert all("mem-2" not in hits for hits in found(index, table, 6))
    index.settle(100)
    assert all("mem-2" not in hits for hits in found(index, table, 6))
    assert index.count() == 5


def test_no_more_wait_than_the_setting_allows(chroma, tmp_path):
    table = vectors(30)
    index = chroma(tmp_path / "some", waiting=10)
    put(index, range(8), table)
    assert index.waiting() == 8
    put(index, range(8, 30), table)
    assert index.waiting() <= 10
    at_once = chroma(tmp_path / "none", waiting=0)
    put(at_once, range(5), table)
    assert at_once.waiting() == 0
    assert len(found(at_once, table, 5)[0]) == 5


def test_a_process_that_dies_before_it_wrote_loses_nothing(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path))
    store.admit([lesson("book a table")])
    store.settle()
    store.admit([lesson("book a car"), lesson("cancel a flight")])
    assert store._index.waiting() == 2
    die(store)
    again = open_store(ledger, chroma(tmp_path))
    assert [hit.memory.when_to_use for hit in again.recall("cancel a flight", 1)] == ["cancel a flight"]
    assert again.check().agrees
    again.close()


def test_close_writes_what_waits_and_moves_the_mark(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path))
    store.admit([lesson(f"book table {i}") for i in range(5)])
    store.close()
    again = open_store(ledger, chroma(tmp_path))
    assert again.sync() == 0
    assert again._index.waiting() == 0
    assert again._index.count() == 5


def test_an_idle_store_writes_by_itself(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path))
    store.admit([lesson("book a table")])
    assert store._index.waiting() == 1
    deadline = time.monotonic() + 20
    while store._index.waiting() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store._index.waiting() == 0
    store._settling.stop()
    assert ledger.memories.index_mark(store._projection._vectors.mark_name()) == ledger.memories.last_seq()
    assert isinstance(store._settling, Settling)


@pytest.mark.parametrize(("limit", "value"), [("_MANY", 1), ("_SLOW", 0.0)], ids=["many", "slow embedder"])
def test_searches_side_by_side_find_what_they_find_in_turn(make_store, lesson, monkeypatch, limit, value):
    store, acme = make_store(), Scope(tenant="acme")
    shared = [lesson(f"book table {i} in town {i % 7}") for i in range(40)]
    own = [lesson(f"book table {i} for acme", scope=acme) for i in range(10)]
    store.admit([*shared, *own, lesson("book table 3 for others", scope=Scope(tenant="other"))])
    states = ["book table 3", "town 5", "a table in town 2"]

    def found():
        scopes = (Scope(), acme)
        return [
            [hit.memory.id for hit in hits]
            for scope in scopes
            for hits in store.recall_many(states, 5, scope=scope)
        ]

    monkeypatch.setattr(recall, "_SLOW", float("inf"))  # a busy machine embeds slowly
    in_turn = found()
    assert store._search._threads is None
    monkeypatch.setattr(recall, limit, value)
    assert found() == in_turn
    assert store._search._threads is not None
