"""Both indexes keep their promise; Chroma has one owner, runs no stored code, agrees with exact search."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkd.embedders import HashingEmbedder
from agentkd.errors import ConfigError, DataError, LockedError, StoreError
from agentkd.memory import ChromaIndex, ChromaSettings, ExactIndex
from agentkd.memory.index_chroma import build
from agentkd.testing import FakeKit, check_index

OWNER = """
import sys, pathlib
from agentkd.memory import ChromaIndex, ChromaSettings
index = ChromaIndex(ChromaSettings(), fingerprint="f", path=pathlib.Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""

AFTER_A_FAILED_DISK = """
import pathlib, resource, sys
import numpy as np
from agentkd.errors import StoreError
from agentkd.memory import ChromaIndex, ChromaSettings

N = 300
made = np.random.default_rng(0).normal(size=(N, 64)).astype(np.float32)
made /= np.linalg.norm(made, axis=1, keepdims=True)

def put(name):
    names = [f"{name}-{at}" for at in range(N)]
    index.add([f"{each}/task" for each in names], made, names, ["task"] * N, "p")

def refused(work):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # no file may grow: SQLite says `disk I/O error`
    try:
        work()
    except StoreError as error:
        return "see to the disk" in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

index = ChromaIndex(ChromaSettings(waiting=int(sys.argv[2])), fingerprint="f", path=pathlib.Path(sys.argv[1]))
put("mem-a")
index.count()
for name in ("mem-b", "mem-c"):
    for _ in range(3):
        assert refused(lambda: (put(name), index.count())), name
    put(name)
    assert index.count() == len(index.stored()), index.stored()
assert index.count() == 3 * N
assert refused(lambda: (put("mem-d"), index.count()))
index.close()
"""


def vectors(n, d=8, seed=0):
    made = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def fill(index, n=5, partition="p", seed=0):
    names = [f"mem-{i}" for i in range(n)]
    index.add([f"{name}/task" for name in names], vectors(n, seed=seed), names, ["task"] * n, partition)


def test_exact_keeps_the_promise():
    check_index(ExactIndex)


def test_chroma_keeps_the_promise(chroma, tmp_path):
    check_index(lambda: chroma(tmp_path))


def test_exact_refuses_vectors_of_another_length():
    index = ExactIndex()
    fill(index)
    with pytest.raises(DataError):
        index.add(["x"], vectors(1, d=4), ["mem-x"], ["task"], "p")


def test_exact_finds_what_lies_in_any_of_its_blocks():
    index, rows = ExactIndex(), vectors(300)
    names = [f"m{at}" for at in range(300)]
    for start, stop in pairwise((0, 10, 17, 40, 41, 300)):  # there is room for 16, 32, 64, 128, 256, 512
        index.add(names[start:stop], rows[start:stop], names[start:stop], ["task"] * (stop - start), "p")
    index.delete(["m3", "m16", "m299"], "p")
    index.add(["new"], rows[3:4], ["new"], ["task"], "p")  # where one of them was
    left = {name: row for name, row in zip(names, rows, strict=True) if name not in ("m3", "m16", "m299")}
    left["new"] = rows[3]
    for asked in (rows[:1], rows[3:4], rows[15:17], rows[250:]):
        for hits, vector in zip(index.query(asked, 7, "p"), asked, strict=True):
            nearest = sorted(left, key=lambda name: -float(left[name] @ vector))[:7]
            assert [hit.memory_id for hit in hits] == nearest
    ids, found, owners = index.oldest(400, "p")
    assert set(ids) == set(left)
    assert all(np.array_equal(left[i], v) for i, v in zip(ids, found, strict=True))
    assert owners == [(id_, "task") for id_ in ids]
    assert index.oldest(0, "p")[1].shape == (0, rows.shape[1])


def test_chroma_keeps_vectors_and_identity_over_a_restart(chroma, tmp_path):
    index = chroma(tmp_path)
    fill(index)
    identity, before = index.identity, index.query(vectors(2), 3, "p")
    index.close()
    again = chroma(tmp_path)
    assert (again.identity, again.count()) == (identity, 5)
    assert again.query(vectors(2), 3, "p") == before


def test_another_fingerprint_or_graph_is_another_empty_index(chroma, tmp_path):
    index = chroma(tmp_path)
    fill(index)
    identity = index.identity
    index.close()
    for change in ({"fingerprint": "other"}, {"max_neighbors": 8}):
        other = chroma(tmp_path, **change)
        assert other.count() == 0
        assert other.identity != identity
        other.close()


def test_clear_takes_a_new_identity(chroma, tmp_path):
    index = chroma(tmp_path)
    fill(index)
    before = index.identity
    index.clear()
    assert index.count() == 0
    assert index.identity != before


def test_a_second_open_is_refused_and_names_the_owner(chroma, tmp_path):
    chroma(tmp_path)
    with pytest.raises(LockedError, match="this process") as caught:
        chroma(tmp_path)
    assert caught.value.context["owner"] == os.getpid()


def test_another_process_owns_the_index_until_it_dies(chroma, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(LockedError, match=f"process {owner.pid}") as caught:
            chroma(tmp_path)
        assert "url" in caught.value.hint
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        chroma(tmp_path)
        assert json.loads((tmp_path / ".lock").read_text())["epoch"] == 2
    finally:
        owner.kill()
        owner.communicate()


def test_a_forked_child_may_not_touch_the_index(chroma, tmp_path):
    index = chroma(tmp_path)
    fill(index)
    child = os.fork()
    if child == 0:
        try:
            index.query(vectors(1), 1, "p")
        except LockedError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(index.query(vectors(1), 1, "p")[0]) == 1


@pytest.mark.parametrize("where", ["config", "schema"])
def test_a_collection_that_brings_an_embedding_function_is_refused(chroma, tmp_path, where):
    index = chroma(tmp_path)
    fill(index)
    index.close()
    function = {"type": "known", "name": "sentence_transformer", "config": {"model_name": "evil"}}
    with sqlite3.connect(tmp_path / "chroma" / "chroma.sqlite3") as base:
        for id_, text in base.execute("SELECT id, schema_str FROM collections").fetchall():
            if where == "schema":
                schema = json.loads(text)
                index_config = schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
                index_config["embedding_function"] = function
                base.execute("UPDATE collections SET schema_str = ? WHERE id = ?", (json.dumps(schema), id_))
            else:
                config = json.dumps({"embedding_function": function})
                base.execute(
                    "UPDATE collections SET schema_str = NULL, config_json_str = ? WHERE id = ?",
                    (config, id_),
                )
    base.close()
    with pytest.raises(StoreError, match="embedding function"):
        chroma(tmp_path)


def test_crafted_configurations_build_nothing(chroma, tmp_path):
    from chromadb.api.collection_configuration import load_collection_configuration_from_json
    from chromadb.utils import embedding_functions

    built = []

    class Evil:
        def __init__(self, *arguments, **keywords):
            built.append(arguments)

        @staticmethod
        def name():
            return "evil"

        @classmethod
        def build_from_config(cls, config):
            built.append(config)
            return cls()

    embedding_functions.known_embedding_functions["evil"] = Evil
    embedding_functions.sparse_known_embedding_functions["evil"] = Evil
    function = {"type": "known", "name": "evil", "config": {"api_key_env_var": "HOME"}}
    places = [
        ("value",),
        ("keys", "#embedding", "float_list", "vector_index", "config"),
        ("defaults", "string"),
    ]
    crafted = [
        {"embedding_function": function},
        {"hnsw": {"space": "cosine"}, "embedding_function": function},
    ]
    schemas = [nested(place, {"embedding_function": function}) for place in places]
    try:
        stored = [
            *(("config_json_str", each) for each in crafted),
            *(("schema_str", each) for each in schemas),
        ]
        for number, (column, value) in enumerate(stored):
            folder = tmp_path / str(number)
            index = chroma(folder)
            fill(index)
            index.close()
            with sqlite3.connect(folder / "chroma" / "chroma.sqlite3") as base:
                base.execute(f"UPDATE collections SET schema_str = NULL, {column} = ?", (json.dumps(value),))
            base.close()
            with pytest.raises(StoreError):
                fill(chroma(folder))
        assert built == []
        load_collection_configuration_from_json(crafted[0])
        assert built  # Chroma itself would have
    finally:
        del embedding_functions.known_embedding_functions["evil"]
        del embedding_functions.sparse_known_embedding_functions["evil"]


def nested(place, leaf):
    for name in reversed(place):
        leaf = {name: leaf}
    return leaf


def test_damaged_files_are_reported_with_the_way_out(chroma, tmp_path):
    chroma(tmp_path).close()
    (tmp_path / "chroma" / "chroma.sqlite3").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="`agentkd doctor --repair` makes it anew"):
        chroma(tmp_path)


@pytest.mark.parametrize("waiting", [0, 1000])
def test_after_a_failed_disk_an_embedded_index_goes_on(tmp_path, waiting):
    command = [sys.executable, "-c", AFTER_A_FAILED_DISK, str(tmp_path), str(waiting)]
    subprocess.run(command, check=True, timeout=120)  # a process of its own: Chroma would hold it for ever
    index = ChromaIndex(ChromaSettings(), fingerprint="f", path=tmp_path)
    found = {id_ for _, id_, _ in index.stored()}
    assert found >= {f"mem-{name}-{at}" for name in "abc" for at in range(300)}
    index.close()


def test_a_closed_index_says_so(chroma, tmp_path):
    index = chroma(tmp_path)
    index.close()
    index.close()
    with pytest.raises(StoreError, match="closed"):
        index.count()


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000"])
def test_a_wrong_address_is_a_config_error(url):
    with pytest.raises(ConfigError):
        ChromaIndex(ChromaSettings(url=url), fingerprint="f")


def test_an_index_needs_a_place_and_a_server_that_answers():
    with pytest.raises(ConfigError, match="no folder"):
        build(ChromaSettings(), FakeKit())
    with pytest.raises(StoreError, match="server"):
        build(ChromaSettings(url="http://127.0.0.1:9"), FakeKit())


@pytest.fixture
def server(tmp_path):
    program = Path(sys.executable).with_name("chroma")
    if not program.exists():
        pytest.skip("the `chroma` command is not beside this Python")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "run", "--host", "127.0.0.1", "--port", str(port), "--path", tmp_path / "server"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_two_clients_share_a_server_and_namespaces_keep_workspaces_apart(server):
    def client(namespace):
        return ChromaIndex(ChromaSettings(url=server), fingerprint="f", namespace=namespace)

    check_index(lambda: client("checked"))
    one, two, stranger = client("ours"), client("ours"), client("theirs")
    fill(one)
    assert len(two.query(vectors(1), 3, "p")[0]) == 3
    assert stranger.query(vectors(1), 3, "p") == [[]]
    two.clear()
    fill(one, n=2)  # its collection is gone: made again
    assert one.count() == 2
    stranger.clear()
    assert one.count() == 2
    for index in (one, two, stranger):
        index.close()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "delete"]),
            st.integers(0, 15),
            st.sampled_from(["a", "ab", "a%", "a_", "A", "ä"]),
        ),
        max_size=30,
    )
)
def test_chroma_and_exact_search_agree(shared_chroma, operations):
    pool = vectors(16, seed=3)
    exact = ExactIndex()
    shared_chroma.clear()
    for action, number, partition in operations:
        for index in (exact, shared_chroma):
            if action == "add":
                row = slice(number, number + 1)
                index.add([f"m{number}"], pool[row], [f"mem-{number}"], ["task"], partition)
            else:
                index.delete([f"mem-{number}"], partition)
    assert exact.count() == shared_chroma.count()
    for partition in ("a", "ab", "a%", "a_", "A", "ä"):
        ours = exact.query(pool[:4], 5, partition)
        theirs = shared_chroma.query(pool[:4], 5, partition)
        for mine, other in zip(ours, theirs, strict=True):
            assert [hit.memory_id for hit in mine] == [hit.memory_id for hit in other]
            assert np.allclose([h.score for h in mine], [h.score for h in other], atol=1e-5)


@pytest.fixture(scope="module")
def shared_chroma(tmp_path_factory):
    index = ChromaIndex(ChromaSettings(), fingerprint="f", path=tmp_path_factory.mktemp("chroma"))
    yield index
    index.close()


def test_a_thread_that_asks_while_another_one_reads_a_small_partition_finds_it(chroma, tmp_path):
    vectors = HashingEmbedder().embed(["book a table"])
    index = chroma(tmp_path / "i")
    index.add(["a"], vectors, ["mem-a"], ["task"], "p")
    index.close()
    index = chroma(tmp_path / "i")
    begun, go_on, small = threading.Event(), threading.Event(), index._shelf._small
    fill = small.add

    def slowly(*rows):
        begun.set()
        go_on.wait(10)
        fill(*rows)

    small.add = slowly
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(index.query, vectors, 1, "p")
        assert begun.wait(10)
        second = threads.submit(index.query, vectors, 1, "p")
        threading.Timer(0.2, go_on.set).start()
        for found in (first.result(), second.result()):
            assert [hit.memory_id for hit in found[0]] == ["mem-a"]
