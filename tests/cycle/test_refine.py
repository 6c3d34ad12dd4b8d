"""The refine phase of a cycle does all that the default refiners promise, and says so in its report."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

import agentkd
from agentkd.ledger import tables
from agentkd.schema import CycleReport, Memory, MemoryKeys, Utility, memory_id, now
from agentkd.schema import Scope as Where
from agentkd.testing import FixedClock

SETTINGS = {
    "memory": {"embedder": "hashing", "index": "exact", "hybrid": False, "merge_above": 0.7},
    "roles": {"actor": "scripted:nobody"},
    "plugins": {"auto": False},
}


def memory(when: str, content: str, **changes: object) -> Memory:
    kind = str(changes.pop("kind", "insight"))
    return Memory(
        id=memory_id(kind, when, content, Where()),
        kind=kind,  # type: ignore[arg-type]
        when_to_use=when,
        content=content,
        keys=MemoryKeys(situation=when),
        status="active",
    ).model_copy(update=changes)


def _backdate(workspace: agentkd.Workspace, memory_id: str, moment: datetime) -> None:
    """Let all that happened to a memory have happened at an earlier time."""
    e = tables.memory_events
    with workspace.ledger._database.write() as connection:
        where = e.c.memory_id == memory_id
        connection.execute(e.update().where(where).values({"happened_at": moment}))


def _edits(report: CycleReport) -> int:
    return int(next(phase for phase in report.phases if phase.name == "refine").output["edits"])


@pytest.fixture
def pool() -> dict[str, Memory]:
    rule = "When calling `search`, set `{}` to '{}'."
    old = now() - timedelta(days=100)
    return {
        "kept": memory("asks for a refund of red shoes", "check the date of the order", support=3),
        "copy": memory("asks for a refund of red shoes now", "Check the date of the order!"),
        "long": memory("books a table for two people", "Ask for the time. Look up the free tables."),
        "short": memory("books a table for two guests", "look up the free tables"),
        "new": memory("a call of `search` is due", rule.format("lang", "de"), kind="parameter"),
        "wrong": memory(
            "a call of `search` is due", rule.format("lang", "en"), kind="parameter", created_at=old
        ),
        "stale": memory("asks for the price of a bike", "it costs 20 euro", kind="fact", created_at=old),
        "harmful": memory(
            "wants to cancel a flight", "cancel the next one",
            utility=Utility(recalls=40, wins=0, held_out=40, held_out_wins=40),
        ),
    }  # fmt: skip


def test_every_default_refiner_changes_the_pool(tmp_path: Path, pool: dict[str, Memory]) -> None:
    ids = {name: m.id for name, m in pool.items()}
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as workspace:
        workspace.ledger.memories.admit(list(pool.values()))
        _backdate(workspace, ids["stale"], pool["stale"].created_at)
        report = workspace.cycle()
        phase = next(p for p in report.phases if p.name == "refine")
        status = workspace.ledger.memories.status_for()
        assert {name for name, id_ in ids.items() if status.get(id_) == "active"} == {"kept", "long", "new"}
        assert {name for name, id_ in ids.items() if status.get(id_) == "quarantined"} == {"stale", "harmful"}
        assert phase.output["edits"] == 5
        reasons = {
            name: workspace.ledger.memories.events(memory_id=ids[name])[-1].reason
            for name in ("copy", "short", "wrong", "stale", "harmful")
        }
        refiners = {
            "copy": "corroborate", "short": "merge", "wrong": "supersede", "stale": "ttl",
            "harmful": "utility-prune",
        }  # fmt: skip
        assert {name: f"{refiner}: " in reasons[name] for name, refiner in refiners.items()} == dict.fromkeys(
            refiners, True
        ), reasons
        kept = workspace.ledger.memories.get(ids["kept"])
        assert pool["copy"].when_to_use in kept.keys.more
        before = workspace.ledger.memories.last_seq()
        assert workspace.memory.refine(workspace.parts.refiners(), workspace.parts) == []
        assert workspace.ledger.memories.last_seq() == before


def test_redistil_is_a_component_that_a_workspace_can_name(tmp_path: Path) -> None:
    settings = {**SETTINGS, "memory": {**SETTINGS["memory"], "refiners": ["redistil"]}}
    with agentkd.Workspace(tmp_path, settings=settings) as workspace:
        assert [refiner.name for refiner in workspace.parts.refiners()] == ["redistil"]


def test_memories_grow_old_in_a_quiet_workspace(
    tmp_path: Path, pool: dict[str, Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FixedClock(now())
    monkeypatch.setattr("agentkd.cycle.journal.now", clock)
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as workspace:
        stale = pool["stale"].model_copy(update={"created_at": now()})
        workspace.ledger.memories.admit([stale])
        before = workspace.cycle()
        _backdate(workspace, stale.id, now() - timedelta(days=100))
        clock.tick(timedelta(days=1).total_seconds())
        after = workspace.cycle()
        assert [_edits(report) for report in (before, after)] == [0, 1]
        assert workspace.ledger.memories.get(stale.id).status == "quarantined"


def test_a_workspace_refines_without_a_cycle(tmp_path: Path, pool: dict[str, Memory]) -> None:
    with agentkd.Workspace(tmp_path, settings=SETTINGS) as workspace:
        workspace.ledger.memories.admit(list(pool.values()))
        _backdate(workspace, pool["stale"].id, pool["stale"].created_at)
        assert [edit.memory_id for edit in workspace.refine(["ttl"])] == [pool["stale"].id]
        assert {edit.reason.partition(":")[0] for edit in workspace.refine()} == {
            "utility-prune", "corroborate", "supersede", "merge",
        }  # fmt: skip
        assert workspace.refine() == []
