"""Several processes share a workspace: what one acknowledges, all recall at once, or they learn why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentkd
from agentkd.errors import LockedError
from agentkd.memory import ChromaIndex, ExactIndex

from .server import chroma_server

WORKER = """
import json, random, sys
from agentkd import Workspace
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

WORDS = "parcel refund invoice flight seat hotel meal ticket coupon address account password voucher".split()
mode, folder, settings, name, n = sys.argv[1:]
dice = random.Random(name)
with Workspace(folder, settings=json.loads(settings)) as workspace:
    store = workspace.memory
    print("open", flush=True)
    if mode == "write":
        for start in range(0, int(n), 10):
            texts = [f"{name}{at} " + " ".join(dice.sample(WORDS, 6)) for at in range(start, start + 10)]
            memories = [
                Memory(id=memory_id("insight", text, text, Scope()), kind="insight", when_to_use=text,
                       content=text, keys=MemoryKeys(situation=text))
                for text in texts
            ]
            stored = [answer.memory_id for answer in store.admit(memories) if answer.outcome == "stored"]
            print(json.dumps([stored, texts]), flush=True)
    else:
        for line in sys.stdin:
            ids, texts = json.loads(line)
            found = [hits[0].memory.id if hits else "" for hits in store.recall_many(texts, k=1)]
            print(sum(a != b for a, b in zip(ids, found, strict=True)), flush=True)
"""
WRITERS, READERS, EACH = 4, 2, 100


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, object]]:
    """Settings of a workspace that many processes may share."""
    memory = {"embedder": "hashing", "min_score": 0.1}
    if request.param == "server":
        with chroma_server(tmp_path / "server") as url:
            yield {"memory": memory, "index": {"chroma": {"url": url}}}
    elif request.param == "embedded":
        yield {"memory": memory, "index": {"chroma": {"when_locked": "exact"}}}
    else:
        yield {"memory": {**memory, "index": "exact"}}


def start(mode: str, folder: Path, settings: dict[str, object], name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, mode, str(folder), json.dumps(settings), name, str(EACH)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


@pytest.mark.parametrize("settings", ["server", "embedded"], indirect=True)
def test_readers_recall_every_acknowledged_memory_of_four_writers(
    settings: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    readers = [start("read", folder, settings, "") for _ in range(READERS)]
    writers = [start("write", folder, settings, f"writer{at}") for at in range(WRITERS)]
    try:
        assert [process.stdout.readline() for process in (*readers, *writers)] == ["open\n"] * 6
        missed, n = 0, 0
        for _ in range(EACH // 10):
            for writer in writers:
                line = writer.stdout.readline()
                n += len(json.loads(line)[0])
                for reader in readers:
                    reader.stdin.write(line)
                    reader.stdin.flush()
                missed += sum(int(reader.stdout.readline()) for reader in readers)
        assert (n, missed) == (WRITERS * EACH, 0)
    finally:
        for process in (*readers, *writers):
            process.communicate()
    assert [process.returncode for process in (*readers, *writers)] == [0] * 6
    with agentkd.Workspace(folder, settings=settings) as workspace:
        assert workspace.memory.check().agrees
        assert workspace.memory.check().n_memories == WRITERS * EACH


def test_a_second_process_is_told_who_has_the_index_and_what_to_do(tmp_path: Path) -> None:
    memory = {"embedder": "hashing"}
    with agentkd.Workspace(tmp_path, settings={"memory": memory}) as owner:
        assert owner.memory.recall("anything") == []
        with agentkd.Workspace(tmp_path, settings={"memory": memory}) as other:
            with pytest.raises(LockedError, match="in use by this process") as caught:
                _ = other.memory
            assert "when_locked" in caught.value.hint


def test_a_second_process_may_search_exactly_instead(tmp_path: Path, lesson) -> None:
    settings = {
        "memory": {"embedder": "hashing", "min_score": 0.1},
        "index": {"chroma": {"when_locked": "exact"}},
    }
    with (
        agentkd.Workspace(tmp_path, settings=settings) as owner,
        agentkd.Workspace(tmp_path, settings=settings) as other,
    ):
        memory = lesson("book a table for two")
        owner.memory.admit([memory])
        assert [hit.memory.id for hit in other.memory.recall("book a table for two")] == [memory.id]
        assert isinstance(owner.memory._index, ChromaIndex)
        assert isinstance(other.memory._index, ExactIndex)
        reply = lesson("cancel a parcel")
        other.memory.admit([reply])
        assert owner.memory.recall("cancel a parcel")[0].memory.id == reply.id
