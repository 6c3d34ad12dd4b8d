"""One memory system under measure, in a process of its own: add, search at several sizes, say how it went.

Runs with the Python of the system: agentkd's, or the peers' (`requirements-memory.txt`). Every system gets
its vectors from one table, through its own embedding hook, so that no time of it is spent on a model. In some
views of agentkd and of bare Chroma the default embedder embeds the questions: what agentkd looks up meanwhile
costs no time then, and what either looks up afterwards meets caches that the model has filled.
`memory.py` starts it; each size that is reached is one JSON line in the report file.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from measure import peak_bytes
from memory_served import Served

BATCH, SINGLES, K = 100, 100, 10
EARLY = 60  # questions asked before `finish`
SEARCH_SECONDS = 40.0  # of one view; a slow system answers fewer questions
EMBEDDED = ", embedding the question"  # ends the name of a view whose questions the real model embeds


@cache
def _model() -> Any:
    """Return the default embedder, past its cache."""
    from memory_corpus import minilm  # the peers' Python has no agentkd

    return minilm()


class System(ABC):
    """What is asked of every system."""

    views: tuple[str, ...] = ("all",)
    """What is searched: everything that an asker without a scope sees, or more."""
    finishes_later = False
    """Whether `finish` does anything."""
    embedding = 0.0  # seconds of the last search that went into its question, of those who tell

    @abstractmethod
    def __init__(self, folder: Path, served: Served) -> None: ...

    @abstractmethod
    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number, for everybody or for a tenant."""

    @abstractmethod
    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found, best first."""

    def settle(self) -> None:  # noqa: B027
        """Finish what adding left for later; it counts as adding."""

    def finish(self) -> None:  # noqa: B027
        """Do what is done in idle moments and changes no answer; it is told beside."""

    def close(self) -> None:  # noqa: B027
        """Release what is open, if anything can be."""


class Agentkd(System):
    """A workspace as an application opens it: admission, ledger, index."""

    views: tuple[str, ...] = ("all", "scoped", f"all{EMBEDDED}", f"scoped{EMBEDDED}")
    index, hybrid, finishes_later = "chroma", True, True

    def __init__(self, folder: Path, served: Served) -> None:
        import agentkd
        from agentkd.plugins import Component, NoSettings

        class Embedder:
            fingerprint, dimensions = "emb-served", served.vectors.shape[1]
            embed = staticmethod(self._embed)

        class Plugin:
            @agentkd.hookimpl
            def components(self) -> list[Any]:
                return [
                    Component("embedder", "served", "A table.", lambda settings, kit: Embedder(), NoSettings)
                ]

        memory = {"embedder": "served", "index": self.index, "hybrid": self.hybrid, "min_score": -1.0}
        self._served = served
        self._workspace = agentkd.Workspace(folder / "ws", settings={"memory": memory}, plugins=[Plugin()])
        self._store = self._workspace.memory
        self._rows: dict[str, int] = {}
        self._question = ""

    def _embed(self, texts: Sequence[str]) -> Any:
        is_question = self._question and list(texts) == [self._question]
        return (_model() if is_question else self._served).embed(texts)

    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number."""
        from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

        scope = Scope(tenant=tenant)
        made = [(text, f"Lesson {row}: {text}") for row in rows for text in [self._served.texts[row]]]
        answers = self._store.admit(
            Memory(
                id=memory_id("insight", text, content, scope), kind="insight", when_to_use=text,
                content=content, keys=MemoryKeys(situation=text), scope=scope, origin="benchmark",
            )
            for text, content in made
        )  # fmt: skip
        for answer, row in zip(answers, rows, strict=True):
            if answer.outcome != "stored":
                raise SystemExit(f"not stored: {answer}")
            self._rows[answer.memory_id] = row

    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found."""
        from agentkd.schema import Scope

        seen, embedding, _ = view.partition(EMBEDDED)
        self._question = query if embedding else ""
        hits = self._store.recall(query, K, scope=Scope(tenant="acme" if seen == "scoped" else ""))
        return [self._rows[hit.memory.id] for hit in hits]

    def settle(self) -> None:
        """Follow with the index of words: from here on every memory is recalled."""
        self._store.sync()

    def finish(self) -> None:
        """Let the graph take in the vectors that wait in memory; until then they are compared one by one."""
        self._store.settle()

    def close(self) -> None:
        """Close the workspace."""
        self._workspace.close()


class AgentkdDense(Agentkd):
    """Without the search by words: the same hits as an exact search by meaning, if the index finds them."""

    views = ("all", "scoped")
    hybrid = False


class AgentkdExact(AgentkdDense):
    """The exact index in memory: what a process without the lock can fall back to."""

    index, finishes_later = "exact", False


class Chroma(System):
    """A bare collection with Chroma's defaults and cosine distance; no ledger, no copies found, no scopes."""

    views = ("all", "filtered", f"all{EMBEDDED}")

    def __init__(self, folder: Path, served: Served) -> None:
        import chromadb
        from chromadb.config import Settings

        self._served = served
        self._client = chromadb.PersistentClient(
            str(folder / "chroma"), settings=Settings(anonymized_telemetry=False)
        )
        space = {"hnsw": {"space": "cosine"}}
        self._table = self._client.get_or_create_collection(
            "memories", embedding_function=None, configuration=space
        )

    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number."""
        texts = [self._served.texts[row] for row in rows]
        self._table.add(
            ids=[str(row) for row in rows], embeddings=self._served.embed(texts), documents=texts,
            metadatas=[{"tenant": tenant} for _ in rows],
        )  # fmt: skip

    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found."""
        where = {"tenant": {"$in": ["", "acme"]}} if view == "filtered" else None
        begun = time.perf_counter()
        vectors = (_model() if view.endswith(EMBEDDED) else self._served).embed([query])
        self.embedding = time.perf_counter() - begun
        found = self._table.query(query_embeddings=vectors, n_results=K, where=where)
        return [int(id_) for id_ in found["ids"][0]]

    def close(self) -> None:
        """Close the client."""
        self._client.close()


class LangGraph(System):
    """LangGraph's InMemoryStore with a vector index."""

    def __init__(self, folder: Path, served: Served) -> None:
        def embed(texts: Sequence[str]) -> list[list[float]]:
            return served.embed(texts).tolist()

        self._served = served
        index = {"dims": served.vectors.shape[1], "embed": embed, "fields": ["content"]}
        self._store = self.make_store(folder, index)

    def make_store(self, folder: Path, index: dict[str, Any]) -> Any:
        """Return the store; this one keeps nothing on disk."""
        from langgraph.store.memory import InMemoryStore

        return InMemoryStore(index=index)

    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number."""
        for row in rows:
            self._store.put(("memories", tenant or "all"), str(row), {"content": self._served.texts[row]})

    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found."""
        return [int(item.key) for item in self._store.search(("memories", "all"), query=query, limit=K)]


class LangMem(LangGraph):
    """LangMem's memory tools on that store, as its quick start wires them; called without a model."""

    def __init__(self, folder: Path, served: Served) -> None:
        from langmem import create_manage_memory_tool, create_search_memory_tool

        super().__init__(folder, served)
        space = ("memories", "all")
        self._manage = create_manage_memory_tool(namespace=space, store=self._store)
        self._search = create_search_memory_tool(namespace=space, store=self._store)

    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number."""
        for row in rows if not tenant else ():
            self._manage.invoke({"content": self._served.texts[row], "action": "create"})

    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found."""
        found = json.loads(self._search.invoke({"query": query, "limit": K}))
        return [self._served.row[item["value"]["content"]] for item in found]


class LangMemSqlite(LangMem):
    """The same tools on LangGraph's SQLite store: what is added outlives the process, as with agentkd."""

    def make_store(self, folder: Path, index: dict[str, Any]) -> Any:
        """Return a store in a file."""
        import pysqlite3 as sqlite3  # loads extensions, which not every Python's own does

        sys.modules["sqlite3"] = sqlite3
        from langgraph.store.sqlite import SqliteStore

        connection = sqlite3.connect(folder / "store.db", check_same_thread=False, isolation_level=None)
        store = SqliteStore(connection, index={**index, "text_fields": index["fields"]})  # reads that name
        store.setup()
        return store


class Mem0(System):
    """mem0 with `infer=False` on its Chroma store, history database on; no model is called."""

    def __init__(self, folder: Path, served: Served) -> None:
        os.environ.update(MEM0_TELEMETRY="False", MEM0_DIR=str(folder), OPENAI_API_KEY="none")
        from langchain_core.embeddings import Embeddings
        from mem0 import Memory

        class Table(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return served.embed(texts).tolist()

            def embed_query(self, text: str) -> list[float]:
                return served.embed([text])[0].tolist()

        self._served = served
        self._memory = Memory.from_config(
            {
                "vector_store": {
                    "provider": "chroma",
                    "config": {"collection_name": "memories", "path": str(folder / "db")},
                },
                "embedder": {"provider": "langchain", "config": {"model": Table()}},
                "llm": {"provider": "openai", "config": {"api_key": "none"}},
                "history_db_path": str(folder / "history.db"),
            }
        )

    def add(self, rows: Sequence[int], tenant: str = "") -> None:
        """Store texts by number."""
        messages = [{"role": "user", "content": self._served.texts[row]} for row in rows]
        self._memory.add(messages, user_id=tenant or "all", infer=False)

    def search(self, query: str, view: str) -> list[int]:
        """Return the numbers of the texts found."""
        found = self._memory.search(query, filters={"user_id": "all"}, top_k=K)["results"]
        return [self._served.row[item["memory"]] for item in found]


SYSTEMS: dict[str, type[System]] = {
    "agentkd": Agentkd,
    "agentkd, dense": AgentkdDense,
    "agentkd, exact": AgentkdExact,
    "Chroma": Chroma,
    "LangGraph store": LangGraph,
    "LangMem": LangMem,
    "LangMem, SQLite": LangMemSqlite,
    "mem0": Mem0,
}


def measure(
    system: Any, served: Served, sizes: Sequence[int], cap: float, report: Path, folder: Path
) -> None:
    """Fill the system to each size in turn; stop where the cap of seconds is spent.

    `add_seconds` are of all memories added in batches so far, until all of them are found; `finish_seconds`
    are of what a system does later, in idle moments. The last ones before a size are added singly.
    """
    begun, spent, used, finishing, batched, done = time.monotonic(), 0.0, 0.0, 0.0, 0, 0
    owned = 0
    for size in sizes:
        edge = size - SINGLES
        while done < edge:
            part = range(done, min(done + BATCH, edge))
            before, cpu = time.perf_counter(), time.process_time()
            system.add(part)
            spent, used = spent + time.perf_counter() - before, used + time.process_time() - cpu
            batched, done = batched + len(part), part.stop
            if time.monotonic() - begun > cap:
                _tell(report, {"size": size, "stopped_at": done, "add_seconds": spent, "batched": batched})
                return
        before, cpu = time.perf_counter(), time.process_time()
        system.settle()
        spent, used = spent + time.perf_counter() - before, used + time.process_time() - cpu
        if served.unknown > size // 10:  # more than are redacted: what it finds would be chance
            raise SystemExit(f"{served.unknown} of {size} texts were embedded that are not in the table")
        early = _search(system, served, "all", EARLY)["seconds"] if system.finishes_later else []
        before = time.perf_counter()
        system.finish()
        finishing += time.perf_counter() - before
        singly = [_timed(system, row) for row in range(edge, size)]
        done = size
        for tenant, part in served.owned(owned, size, max(sizes), BATCH):
            system.add(part, tenant)
        owned = size
        system.finish()
        fact = {
            "size": size, "add_seconds": spent, "batched": batched, "finish_seconds": finishing,
            "early": early, "cpu_seconds": used, "single_seconds": sum(singly) / SINGLES,
            "views": {view: _search(system, served, view) for view in system.views},
            "disk": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
            "rss": peak_bytes(),
        }  # fmt: skip
        served.unknown = 0
        _tell(report, fact)


def _timed(system: Any, row: int) -> float:
    before = time.perf_counter()
    system.add([row])
    return time.perf_counter() - before


def _search(system: Any, served: Served, view: str, n: int | None = None) -> dict[str, Any]:
    for query in served.queries[-3:]:
        system.search(query, view)  # loads what is loaded lazily
    begun, cpu, seconds, found, embedding = time.monotonic(), time.process_time(), [], [], []
    for query in served.queries[:n]:
        before = time.perf_counter()
        found.append(system.search(query, view))
        seconds.append(time.perf_counter() - before)
        embedding.append(system.embedding)
        if time.monotonic() - begun > SEARCH_SECONDS:
            break
    cpu = time.process_time() - cpu
    return {"seconds": seconds, "found": found, "cpu_seconds": cpu, "embedding": embedding}


def _tell(report: Path, fact: dict[str, Any]) -> None:
    with report.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(fact) + "\n")


def main() -> int:
    """Measure `SYSTEM SIZES CAP_SECONDS CORPUS_FOLDER SCRATCH_FOLDER REPORT_FILE`."""
    name, sizes, cap, corpus, scratch, report = sys.argv[1:]
    folder = Path(scratch) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    system = SYSTEMS[name](folder, served := Served(Path(corpus)))
    measure(system, served, [int(size) for size in sizes.split(",")], float(cap), Path(report), folder)
    system.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
