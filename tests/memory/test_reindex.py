"""An index is built anew beside the one in use: recalls go on, and a killed rebuild changes nothing."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import agentkd
from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.errors import ModelError
from agentkd.memory import ChromaIndex, ChromaSettings, MemoryStore
from agentkd.memory.shelf import Shelf
from agentkd.plugins import PluginHost

from .server import chroma_server


def store_on(ledger, index, embedder=None):
    settings = MemorySettings(min_score=0.1, hybrid=False)
    return MemoryStore(ledger, index, embedder or HashingEmbedder(), settings, PluginHost(auto=False).hooks)


class Slow(HashingEmbedder):
    """Waits in the middle of an embedding of many texts until it is let go."""

    def __init__(self):
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def embed(self, texts):
        if len(texts) > 10:
            self.begun.set()
            self.go_on.wait(20)
        return super().embed(texts)


def test_recalls_go_on_while_an_index_is_rebuilt(ledger, chroma, tmp_path, lesson):
    embedder = Slow()
    store = store_on(ledger, chroma(tmp_path / "i"), embedder)
    memories = [lesson(f"book table number {at}") for at in range(30)]
    store.admit(memories)
    embedder.begun.clear()
    embedder.go_on.clear()
    identity = store._index.identity
    rebuild = threading.Thread(target=store.rebuild)
    rebuild.start()
    assert embedder.begun.wait(10)
    assert store.recall("book table number 7")[0].memory.id == memories[7].id
    late = lesson("a parcel that came meanwhile")
    store.admit([late])
    assert store.recall("a parcel that came meanwhile")[0].memory.id == late.id
    assert store._index.identity == identity
    embedder.go_on.set()
    rebuild.join()
    assert store._index.identity != identity
    assert store.recall("a parcel that came meanwhile")[0].memory.id == late.id
    assert (store.check().agrees, store.check().n_unfinished) == (True, 0)


def test_a_killed_rebuild_leaves_the_old_index_in_use(ledger, chroma, tmp_path, lesson):
    index = chroma(tmp_path / "i")
    store = store_on(ledger, index)
    store.admit([lesson(f"book table number {at}") for at in range(5)])
    identity, half = index.identity, index.aside()
    half.add(["x"], HashingEmbedder().embed(["x"]), ["mem-x"], ["task"], "p")
    store.close()
    again = chroma(tmp_path / "i")
    assert (again.identity, again.count(), again.unfinished()) == (identity, 5, 1)
    assert len(store_on(ledger, again).recall("book table number 3", k=5)) == 5
    assert (again.drop_unfinished(), again.unfinished(), again.count()) == (1, 0, 5)


def test_other_settings_of_the_graph_are_taken_over_in_the_background(tmp_path, lesson):
    memory = {"embedder": "hashing", "min_score": 0.1}
    with agentkd.Workspace(tmp_path, settings={"memory": memory}) as workspace:
        workspace.memory.admit([lesson(f"book table number {at}") for at in range(20)])
        identity = workspace.memory._index.identity
    changed = {"memory": memory, "index": {"chroma": {"max_neighbors": 32}}}
    with agentkd.Workspace(tmp_path, settings=changed) as workspace:
        store = workspace.memory
        assert store.recall("book table number 7")[0].memory.when_to_use == "book table number 7"
        assert store.renew().wait(20)
        assert store.renew().error is None
        assert store._index.identity != identity
        assert not store._index.is_outdated
        assert store.check().agrees
    with agentkd.Workspace(tmp_path, settings=changed) as workspace:
        assert workspace.memory.renew() is None


def test_a_renewal_that_is_stopped_changes_nothing_and_is_gone_on_with(ledger, chroma, tmp_path, lesson):
    store = store_on(ledger, chroma(tmp_path / "i"))
    store.admit([lesson(f"book table number {at}") for at in range(20)])
    store.close()
    embedder = Slow()
    index = chroma(tmp_path / "i", max_neighbors=8)
    assert index.is_outdated
    embedder.go_on.clear()
    store = store_on(ledger, index, embedder)
    store.renew()
    assert embedder.begun.wait(10)
    threading.Timer(0.3, embedder.go_on.set).start()
    store.close()
    again = chroma(tmp_path / "i", max_neighbors=8)
    assert (again.is_outdated, again.unfinished(), again.count()) == (True, 1, 20)
    store = store_on(ledger, again)
    assert store.renew().wait(20)
    assert (again.is_outdated, again.unfinished(), again.count()) == (False, 0, 20)


def test_a_wider_search_needs_no_rebuild(chroma, tmp_path):
    chroma(tmp_path).close()
    index = chroma(tmp_path, ef_search=333)
    assert not index.is_outdated


@pytest.mark.parametrize("n", [40, 10_500])
def test_small_and_large_partitions_answer_alike(chroma, tmp_path, n):
    made = np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    names = [f"mem-{at}" for at in range(n)]
    index = chroma(tmp_path)
    index.add(names, made, names, ["task"] * n, "p")
    index.query(made[:1], 3, "p")
    index.delete([names[3]], "p")
    index.add(["new"], made[3:4], ["mem-new"], ["task"], "p")
    found = index.query(made[:8], 1, "p")
    assert [hits[0].memory_id for hits in found] == [*names[:3], "mem-new", *names[4:8]]
    assert index.count() == len(index.stored()) == n


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with chroma_server(tmp_path_factory.mktemp("server")) as address:
        yield address


def test_a_rebuild_by_one_client_of_a_server_is_seen_by_the_others(url, ledger, lesson):
    def client():
        return ChromaIndex(
            ChromaSettings(url=url), fingerprint=HashingEmbedder().fingerprint, namespace="one"
        )

    one, two = store_on(ledger, client()), store_on(ledger, client())
    memories = [lesson(f"book table number {at}") for at in range(10)]
    one.admit(memories)
    assert two.recall("book table number 4")[0].memory.id == memories[4].id
    one.rebuild()
    assert two.recall("book table number 4")[0].memory.id == memories[4].id
    two.admit([lesson("a parcel")])
    assert one.recall("a parcel")[0].memory.when_to_use == "a parcel"
    two._index.clear()
    one.admit([lesson("a coupon")])
    assert one.recall("book table number 4")[0].memory.id == memories[4].id
    assert one.check().agrees
    for store in (one, two):
        store.close()


def test_workspaces_on_one_server_do_not_mix(url, tmp_path: Path, lesson):
    settings = {
        "memory": {"embedder": "hashing", "min_score": 0.1},
        "index": {"chroma": {"url": url, "token_env": "CHROMA_TEST_TOKEN"}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHROMA_TEST_TOKEN", "secret")
        with (
            agentkd.Workspace(tmp_path / "a", settings=settings) as one,
            agentkd.Workspace(tmp_path / "b", settings=settings) as two,
        ):
            memory = lesson("book a table")
            one.memory.admit([memory])
            assert two.memory.recall("book a table") == []
            assert [hit.memory.id for hit in one.memory.recall("book a table")] == [memory.id]
            assert two.memory.check().agrees
            assert (
                one.memory._index._chroma._client._server._session.headers["Authorization"] == "Bearer secret"
            )
            shutil.rmtree(tmp_path / "a" / "index")  # the words; the vectors are on the server


def test_a_shelf_knows_when_it_was_begun(chroma, tmp_path):
    index = chroma(tmp_path)
    assert isinstance(index.aside(), Shelf)
    assert index.aside(resume=True).prefix == index.aside(resume=True).prefix


def test_a_renewal_that_fails_says_so(ledger, chroma, tmp_path, lesson):
    store = store_on(ledger, chroma(tmp_path / "i"))
    store.admit([lesson("book a table")])
    store.close()

    class Breaks(HashingEmbedder):
        def embed(self, texts):
            raise ModelError("no memory left")

    said = []
    store = store_on(ledger, chroma(tmp_path / "i", max_neighbors=8), Breaks())
    store._progress.say = said.append
    renewal = store.renew()
    assert renewal.wait(20)
    assert isinstance(renewal.error, ModelError)
    assert "no memory left" in said[0]
