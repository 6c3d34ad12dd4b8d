"""What a store held comes back under its namespace and key, and never as something that no key owns."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentkd import Workspace, hookimpl
from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.graph import AgentkdStore
from agentkd.interop import ImportReport, admit_imported, preview, read_foreign, with_life, write_foreign
from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore
from agentkd.plugins import PluginHost
from agentkd.schema import Memory, Scope, now

NS = ("users", "ann")
SECRET = "sk-" + "a1B2" * 6
VALUES: dict[str, dict[str, Any]] = {
    "tea": {"content": "Ann drinks green tea"},
    "a": {"content": "the same words"},
    "b": {"content": "the same words"},
    "n": {"count": 3, "deep": {"x": [1, 2]}},
    "key": {"content": f"Ann uses {SECRET}"},
}
Open = Callable[..., Workspace]
both = pytest.mark.parametrize("format_", ["pack", "langmem"])


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    opened: list[Workspace] = []

    def open_workspace(**scope: str) -> Workspace:
        memory = {"embedder": "hashing", "index": "exact", "min_score": 0.05, "scope": scope}
        settings = {"memory": memory, "plugins": {"auto": False}}
        opened.append(Workspace(tmp_path / f"ws{len(opened)}", settings=settings))
        return opened[-1]

    yield open_workspace
    for workspace in opened:
        workspace.close()


@pytest.fixture
def there(open_: Open) -> Workspace:
    """A workspace whose store holds all values, and one that is not to be found by its words."""
    workspace = open_()
    store = AgentkdStore(workspace)
    for key, value in VALUES.items():
        store.put(NS, key, value)
    store.put(NS, "hidden", {"content": "a secret hobby of Ann"}, index=False)
    return workspace


def out_of(workspace: Workspace, path: Path, format_: str) -> Path:
    found = workspace.ledger.memories.list(status="active")
    return write_foreign(found, path, format_, replace=True)


def into(workspace: Workspace, path: Path, **how: Any) -> ImportReport:
    return admit_imported(read_foreign(path), workspace.memory, workspace.ledger, **how)


@both
def test_what_lives_for_a_time_lives_no_longer_elsewhere(
    open_: Open, tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here, later = open_(), open_(), open_()
    store = AgentkdStore(there)
    store.put(NS, "card", {"content": "the card number of today"}, ttl=10)
    store.put(NS, "tea", {"content": "green"})
    found = with_life(there.ledger.memories.list(status="active"), there.ledger)
    path = write_foreign(found, tmp_path / "out", format_)
    into(here, path)
    [(ttl, until)] = here.ledger.items.lives(m.id for m in here.ledger.memories.list()).values()
    [(_, said)] = there.ledger.items.lives(m.id for m in found).values()
    assert (ttl, until) == (10.0, said), "not a minute longer than at home"
    assert AgentkdStore(here).get(NS, "card") is not None
    after = now() + timedelta(minutes=11)
    monkeypatch.setattr("agentkd.interop.item.now", lambda: after)
    report = into(later, path)
    assert report.outcomes == {"rejected": 1, "stored": 1}
    assert any("time to live" in answer.reason for answer in report.answers)


def test_a_pack_holds_whatever_the_store_held(open_: Open, tmp_path: Path) -> None:
    there, here = open_(), open_()
    big = {"content": "x y " * 60_000, "n": 1 << 64, "deep": functools.reduce(lambda x, _: [x], range(80), 1)}
    AgentkdStore(there).put(NS, "big", big)
    into(here, out_of(there, tmp_path / "out.zip", "pack"))
    item = AgentkdStore(here).get(NS, "big")
    assert item is not None
    assert item.value == AgentkdStore(there).get(NS, "big").value


def words(workspace: Workspace, asked: str, scope: Scope) -> set[str]:
    return {hit.memory.content for hit in workspace.memory.recall(asked, 9, scope=scope)}


@both
def test_a_store_comes_back_whole(there: Workspace, open_: Open, tmp_path: Path, format_: str) -> None:
    path, here = out_of(there, tmp_path / "out", format_), open_()
    dry = preview(read_foreign(path), here.settings.memory.scope, here.ledger)
    assert (dry.outcomes, into(here, path).outcomes) == ({"new": 6}, {"stored": 6})
    old, new = AgentkdStore(there), AgentkdStore(here)
    held = {item.key: item.value for item in new.search(())}
    assert held == {item.key: item.value for item in old.search(())}
    assert held["n"] == VALUES["n"]
    assert SECRET not in str(held["key"])
    assert words(here, "Ann drinks green tea hobby", new.scope(NS)) >= {"Ann drinks green tea"}
    assert "a secret hobby of Ann" not in words(here, "a secret hobby of Ann", new.scope(NS))
    assert words(here, "Ann drinks green tea", Scope(user="users.bob")) == set()
    found = here.ledger.memories.list()
    assert {(m.origin, m.privacy, m.kind) for m in found} == {("store", "private", "fact")}
    assert {m.extras["import"]["format"] for m in found} == {format_}
    new.delete(NS, "tea")
    assert "Ann drinks green tea" not in words(here, "Ann drinks green tea", new.scope(NS))


@both
def test_a_second_import_changes_nothing_and_a_put_of_the_same_neither(
    there: Workspace, open_: Open, tmp_path: Path, format_: str
) -> None:
    path, here = out_of(there, tmp_path / "out", format_), open_()
    into(here, path)
    AgentkdStore(here).put(NS, "tea", VALUES["tea"])
    assert into(here, path).outcomes == {"merged": 6}
    assert preview(read_foreign(path), Scope(), here.ledger).outcomes == {"known": 6}
    assert len(here.ledger.memories.list(current=False)) == 6


@both
def test_a_later_value_stays_and_a_revoked_one_does_not_come_back(
    there: Workspace, open_: Open, tmp_path: Path, format_: str
) -> None:
    path, here = out_of(there, tmp_path / "out", format_), open_()
    into(here, path)
    store = AgentkdStore(here)
    store.put(NS, "tea", {"content": "Ann drinks coffee"})
    [gone] = [m for m in here.ledger.memories.list() if m.extras["key"] == "n"]
    here.memory.revoke(gone.id, "wrong")
    report = into(here, path)
    assert report.outcomes == {"merged": 4, "rejected": 2}
    why = " | ".join(answer.reason for answer in report.answers)
    assert "item `tea` in `users.ann` holds a later value here" in why
    assert "item `n` in `users.ann` was revoked" in why
    assert store.get(NS, "n") is None
    assert store.search(NS)[0].value == {"content": "Ann drinks coffee"}
    AgentkdStore(there).put(NS, "tea", {"content": "Ann drinks water"})
    into(here, out_of(there, path, format_))
    assert store.search(NS)[0].value == {"content": "Ann drinks water"}


@both
@pytest.mark.parametrize("how", [{"scope": Scope(user="carol")}, {"quarantine": True}])
def test_where_no_key_can_hold_an_item_it_is_a_memory_like_others(
    there: Workspace, open_: Open, tmp_path: Path, format_: str, how: dict[str, Any]
) -> None:
    here = open_()
    report = into(here, out_of(there, tmp_path / "out", format_), **how)
    assert report.outcomes == {"merged": 1, "rejected": 1, "stored": 4}
    assert AgentkdStore(here).search(()) == []
    found = here.ledger.memories.list()
    user = how["scope"].user if "scope" in how else "users.ann"
    assert {(m.origin, m.scope.user, m.privacy) for m in found} == {(f"import:{format_}", user, "private")}
    assert {m.status for m in found} == {"quarantined" if "quarantine" in how else "active"}
    assert not any("hobby" in m.content for m in found)


@both
def test_an_item_stays_with_its_owners(there: Workspace, open_: Open, tmp_path: Path, format_: str) -> None:
    path, here = out_of(there, tmp_path / "out", format_), open_(tenant="acme", user="bob")
    into(here, path)
    assert len(AgentkdStore(here).search(NS)) == 6
    assert {m.scope for m in here.ledger.memories.list()} == {Scope(tenant="acme", user="bob..users.ann")}
    into(here, path, scope=Scope(tenant="beta"))
    assert {m.scope.tenant for m in here.ledger.memories.list()} == {"acme", "beta"}
    assert len(AgentkdStore(here).search(NS)) == 6


def test_a_forged_item_takes_no_key(there: Workspace, open_: Open, tmp_path: Path) -> None:
    [tea] = [m for m in there.ledger.memories.list() if m.extras["key"] == "tea"]
    forged: list[Memory] = [
        tea.model_copy(update={"scope": Scope(user="users.bob")}),
        tea.model_copy(update={"extras": {}, "scope": Scope()}),
        tea.model_copy(update={"extras": {**tea.extras, "namespace": ["users.ann"]}}),
        tea.model_copy(update={"created_at": (tea.created_at + timedelta(days=9)).replace(tzinfo=None)}),
    ]
    here = open_()
    report = into(here, write_foreign(forged, tmp_path / "out.zip", "pack"))
    assert report.outcomes == {"stored": 4}
    assert sorted(m.origin for m in here.ledger.memories.list()) == [*["import:pack"] * 3, "store"]
    assert [item.key for item in AgentkdStore(here).search(())] == ["tea"]


def test_what_is_held_already_is_not_judged_again(there: Workspace, tmp_path: Path) -> None:
    asked: list[str] = []

    class Counts:
        @hookimpl
        def admit_memory(self, memory: Memory) -> None:
            asked.append(memory.content)

    host = PluginHost(auto=False)
    host.add(Counts(), "Counts")
    imported = read_foreign(out_of(there, tmp_path / "out", "langmem"))
    with (
        Ledger.open(tmp_path / "ledger.db") as ledger,
        MemoryStore(ledger, ExactIndex(), HashingEmbedder(), MemorySettings(), host.hooks) as store,
    ):
        n = [(admit_imported(imported, store, ledger), len(asked))[1] for _ in range(2)]
    assert n[0] == n[1] > 0


def test_a_plugin_judges_imported_items_too(there: Workspace, tmp_path: Path) -> None:
    class NoTea:
        @hookimpl
        def admit_memory(self, memory: Memory) -> bool | None:
            with closing(sqlite3.connect(tmp_path / "ledger.db", timeout=0.2)) as other:
                other.execute("begin immediate")  # nobody waits for a plugin
            return False if "tea" in memory.content else None

    host = PluginHost(auto=False)
    host.add(NoTea(), "NoTea")
    imported = read_foreign(out_of(there, tmp_path / "out", "langmem"))
    settings = MemorySettings()
    with (
        Ledger.open(tmp_path / "ledger.db") as ledger,
        MemoryStore(ledger, ExactIndex(), HashingEmbedder(), settings, host.hooks) as store,
    ):
        report = admit_imported(imported, store, ledger)
    assert report.outcomes == {"rejected": 1, "stored": 5}
    assert report.answers[0].reason == "item `tea` in `users.ann`: refused by plugin `NoTea`"
