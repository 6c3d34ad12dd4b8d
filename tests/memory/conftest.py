"""A real ledger and store per test; the hashing embedder, so that similarity is word overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.memory import ChromaIndex, ChromaSettings, ExactIndex, MemoryStore
from agentkd.plugins import PluginHost
from agentkd.protocols import Index
from agentkd.schema import Evidence, Memory, MemoryKeys, Scope, ToolCall, memory_id
from agentkd.testing import example_trajectory

MakeStore = Callable[..., MemoryStore]


@pytest.fixture
def lesson() -> Callable[..., Memory]:
    """Return a function that makes a candidate memory with a proper id."""
    return _lesson


@pytest.fixture
def chroma() -> Iterator[Callable[..., ChromaIndex]]:
    """Return a function that opens an embedded index below a folder; closes what it opened."""
    opened: list[ChromaIndex] = []

    def open_index(path: Path, fingerprint: str = "", **settings) -> ChromaIndex:
        fingerprint = fingerprint or HashingEmbedder().fingerprint
        opened.append(ChromaIndex(ChromaSettings(**settings), fingerprint=fingerprint, path=path))
        return opened[-1]

    yield open_index
    for index in opened:
        index.close()


def _lesson(
    when: str,
    content: str = "",
    *,
    kind: str = "insight",
    calls: tuple[ToolCall, ...] = (),
    scope: Scope | None = None,
    evidence: tuple[str, ...] = (),
    task: str = "",
    tools: str = "",
) -> Memory:
    scope = scope or Scope()
    content = content or f"do {when}"
    return Memory(
        id=memory_id(kind, when, content, scope),
        kind=kind,  # type: ignore[arg-type]
        when_to_use=when,
        content=content,
        keys=MemoryKeys(situation=when, task=task, tools=tools),
        calls=calls,
        scope=scope,
        evidence=Evidence(trajectories=evidence),
        origin="test",
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def make_store(ledger: Ledger) -> Iterator[MakeStore]:
    opened: list[MemoryStore] = []

    def make(index: Index | None = None, *plugins: object, embedder=None, **settings) -> MemoryStore:
        host = PluginHost(auto=False)
        for plugin in plugins:
            host.add(plugin, type(plugin).__name__)
        store = MemoryStore(
            ledger=ledger,
            index=index or ExactIndex(),
            embedder=embedder or HashingEmbedder(),
            settings=MemorySettings(**settings),
            hooks=host.hooks,
        )
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> MemoryStore:
    return make_store()


@pytest.fixture
def happened(ledger: Ledger) -> Callable[[str], str]:
    """Return a function that stores a finished trajectory and returns its id."""

    def happen(id_: str) -> str:
        trajectory = example_trajectory().model_copy(update={"id": id_})
        ledger.trajectories.begin(trajectory)
        ledger.trajectories.finish(trajectory)
        return id_

    return happen
