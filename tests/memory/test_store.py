"""The index follows the ledger, whatever happens to it; scopes never leak; all threads see one truth."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder, HashingSettings
from agentkd.errors import NotFoundError, PluginError, StoreError
from agentkd.ledger import Ledger
from agentkd.memory import ChromaIndex, ChromaSettings, ExactIndex, MemoryStore
from agentkd.memory.scope import partition_of, sees, visible_partitions
from agentkd.plugins import PluginHost
from agentkd.schema import MemoryEdit, MemoryKeys, Scope
from agentkd.testing import FakeKit, example_trajectory

FIELDS = st.sampled_from(["", "a", "ab", "a%", "a_", "A", "ä", "a/b", '","app":"a'])
SCOPES = st.builds(Scope, tenant=FIELDS, app=FIELDS, user=FIELDS)

WRITER = """
import sys, pathlib
from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.memory import ChromaIndex, ChromaSettings, MemoryStore
from agentkd.plugins import PluginHost
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

root = pathlib.Path(sys.argv[1])
embedder = HashingEmbedder()
ledger = Ledger.open(root / "ledger.db")
index = ChromaIndex(ChromaSettings(), fingerprint=embedder.fingerprint, path=root / "index")
store = MemoryStore(ledger, index, embedder, MemorySettings(), PluginHost(auto=False).hooks)
for number in range(10_000):
    when = f"task number {number} about topic {number % 7}"
    memory = Memory(id=memory_id("insight", when, when, Scope()), kind="insight", when_to_use=when,
                    content=when, keys=MemoryKeys(situation=when))
    store.admit([memory])
    print(number, flush=True)
"""


def ids(hits):
    return [hit.memory.id for hit in hits]


def open_store(ledger, index, embedder=None):
    return MemoryStore(
        ledger, index, embedder or HashingEmbedder(), MemorySettings(), PluginHost(auto=False).hooks
    )


def test_an_index_in_memory_is_filled_from_the_ledger_when_it_is_opened(make_store, lesson):
    memory = lesson("book a table")
    make_store().admit([memory])
    assert ids(make_store().recall("book a table")) == [memory.id]


def test_a_restart_goes_on_from_the_mark(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path / "i"))
    store.admit([lesson("book a table"), lesson("book a car")])
    store.close()
    again = open_store(ledger, chroma(tmp_path / "i"))
    assert again.sync() == 0
    assert len(again.recall("book a table")) == 2


def test_a_deleted_index_is_rebuilt_from_the_ledger(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path / "i"))
    memories = [lesson(f"book a table number {i}") for i in range(20)]
    store.admit(memories)
    store.revoke(memories[0].id, "wrong")
    before = store.recall("book a table number 7")
    store.close()
    shutil.rmtree(tmp_path / "i")
    again = open_store(ledger, chroma(tmp_path / "i"))
    assert again.recall("book a table number 7") == before
    assert again.audit().n_vectors == 19


def test_rebuild_gives_the_same_answers(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path / "i"))
    store.admit([lesson(f"book a table number {i}") for i in range(30)])
    before = store.recall_many(["book a table number 3", "a table"])
    assert store.rebuild() == 30
    assert store.recall_many(["book a table number 3", "a table"]) == before


def test_equal_keys_and_tool_names_cost_no_vectors(store, lesson):
    store.admit([lesson("book a table", task="book a table", tools="book_table"), lesson("a", task="b")])
    assert store.audit().n_vectors == 3


def test_another_embedder_gets_an_index_of_its_own(ledger, chroma, tmp_path, lesson):
    memory = lesson("book a table")
    store = open_store(ledger, chroma(tmp_path / "i"))
    store.admit([memory])
    store.close()
    other = HashingEmbedder(HashingSettings(dimensions=64))
    again = open_store(ledger, chroma(tmp_path / "i", fingerprint=other.fingerprint), other)
    assert ids(again.recall("book a table")) == [memory.id]
    assert again.audit().n_vectors == 1


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path, chroma):
    for seen in (5, 23):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for line in writer.stdout:
            if int(line) >= seen:
                writer.send_signal(signal.SIGKILL)
                break
        writer.communicate()
        with Ledger.open(tmp_path / "ledger.db") as ledger:
            store = open_store(ledger, chroma(tmp_path / "index"))
            states = [f"task number {number} about topic {number % 7}" for number in range(seen + 1)]
            found = store.recall_many(states, k=1)
            assert [hits[0].memory.when_to_use for hits in found] == states
            report = store.audit()
            assert report.n_vectors == report.n_vectors_expected
            store.close()


def test_superseded_versions_are_not_recalled(store, lesson, ledger):
    old, new = lesson("book a table", "old way"), lesson("book a table", "new way")
    store.admit([old])
    ledger.memories.supersede(old.id, new.model_copy(update={"status": "active"}))
    assert ids(store.recall("book a table")) == [new.id]
    assert ids_of(store.history(new.id)) == [old.id, new.id]
    with pytest.raises(NotFoundError):
        store.history("mem-unknown")


def ids_of(memories):
    return [memory.id for memory in memories]


def test_threads_that_write_and_recall_see_every_admitted_memory(ledger, chroma, tmp_path, lesson):
    store = open_store(ledger, chroma(tmp_path / "i"))

    def work(number):
        memory = lesson(f"situation {number} of many")
        store.admit([memory])
        return memory.id in ids(store.recall(memory.when_to_use, k=3))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    report = store.audit()
    assert report.n_vectors == report.n_vectors_expected == 40


@given(SCOPES, SCOPES)
def test_the_visible_partitions_are_those_of_the_scopes_that_are_seen(asker, scope):
    assert (partition_of(scope) in visible_partitions(asker)) == sees(asker, scope)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(owners=st.lists(SCOPES, min_size=1, max_size=8), askers=st.lists(SCOPES, min_size=1, max_size=4))
def test_no_recall_crosses_a_scope_and_chroma_agrees_with_exact(shared_chroma, lesson, owners, askers):
    shared_chroma.clear()
    memories = {m.id: m for i, s in enumerate(owners) for m in [lesson("book a table", f"note {i}", scope=s)]}
    with Ledger.open("sqlite://") as ledger:
        stores = [open_store(ledger, shared_chroma), open_store(ledger, ExactIndex())]
        stores[0].admit(memories.values())
        for asker in askers:
            found = [store.recall("book a table", k=20, scope=asker) for store in stores]
            seen = {id_ for id_, memory in memories.items() if sees(asker, memory.scope)}
            assert {hit.memory.id for hit in found[0]} == {hit.memory.id for hit in found[1]} == seen


@pytest.fixture(scope="module")
def shared_chroma(tmp_path_factory):
    path = tmp_path_factory.mktemp("scopes")
    index = ChromaIndex(ChromaSettings(), fingerprint=HashingEmbedder().fingerprint, path=path)
    yield index
    index.close()


def test_a_full_or_read_only_ledger_stops_the_write_not_the_answers(tmp_path, lesson):
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        memory = lesson("book a table")
        open_store(ledger, ExactIndex()).admit([memory])
    with Ledger.open(tmp_path / "ledger.db", read_only=True) as ledger:
        store = open_store(ledger, ExactIndex())
        assert ids(store.recall("book a table")) == [memory.id]
        with pytest.raises(StoreError):
            store.admit([lesson("another")])


def test_an_audit_names_copies_loops_and_what_nobody_used(store, lesson, ledger):
    trajectory = example_trajectory()
    trajectory = trajectory.model_copy(update={"outcome": None})  # nobody graded it
    ledger.trajectories.begin(trajectory)
    first = lesson("asks for a refund of red shoes", "check the date")
    ledger.memories.admit([first.model_copy(update={"status": "active"})])
    ledger.memories.record_recall(trajectory.id, 0, store.recall("asks for a refund of red shoes"))
    ledger.trajectories.finish(trajectory)
    echo = lesson("Asks for a refund of red shoes", "Check the date.", evidence=(trajectory.id,))
    wrong = lesson("asks for a refund of red shoes", "pay at once")
    for memory in (echo, wrong):
        ledger.memories.admit([memory.model_copy(update={"status": "active"})])
    report = store.audit()
    assert report.n == report.by_status["active"] == 3
    assert report.exact_copies == ((first.id, echo.id),)
    assert {(p.first, p.second, p.same_lesson) for p in report.near_copies} >= {(first.id, echo.id, True)}
    assert [p.same_lesson for p in report.near_copies].count(False) == 2
    assert report.never_recalled == (echo.id, wrong.id)
    assert report.loops == (echo.id,)
    assert report.n_vectors == report.n_vectors_expected == 3


class Renames:
    name = "renames"

    def __init__(self, *edits):
        self.edits = edits

    def refine(self, memories, kit):
        return self.edits


def change(memory_id, status, reason):
    return MemoryEdit(ids=(memory_id,), status=status, reason=reason)


def test_refine_applies_edits_and_keeps_the_reason(store, lesson, ledger):
    memory = lesson("book a table")
    store.admit([memory])
    [edit] = store.refine([Renames(change(memory.id, "quarantined", "it misleads"))], FakeKit())
    assert (edit.before, edit.status, edit.reason) == ("active", "quarantined", "renames: it misleads")
    assert store.recall("book a table") == []
    assert ledger.memories.events(memory_id=memory.id)[-1].reason == "renames: it misleads"
    assert store.refine([Renames(change(memory.id, "quarantined", "again"))], FakeKit()) == []


@pytest.mark.parametrize("edit", [("mem-unknown", "quarantined", ""), (None, "compiled", "")])
def test_a_refiner_that_edits_what_it_may_not_is_named_and_changes_nothing(store, lesson, edit):
    memory = lesson("book a table")
    store.admit([memory])
    wrong = change(edit[0] or memory.id, *edit[1:])
    with pytest.raises(PluginError, match="renames"):
        store.refine([Renames(change(memory.id, "quarantined", "fine"), wrong)], FakeKit())
    assert ids(store.recall("book a table")) == [memory.id]


def test_a_memory_without_a_key_is_missed_by_no_index(store, ledger, lesson):
    hidden = lesson("x").model_copy(update={"when_to_use": "", "keys": MemoryKeys(), "status": "active"})
    ledger.memories.admit([hidden])
    found = store.check()
    assert (found.agrees, found.n_words_missing) == (True, 0)
