"""What one tenant teaches is neither recalled for another one nor compiled into a student of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agentkd
from agentkd.plugins import NoSettings
from agentkd.schema import Outcome, Scope, ToolCall, ToolSpec
from agentkd.testing import FakeSuite, example_trajectory, tiny_student


def test_a_workspace_learns_from_its_own_tenant_and_from_what_belongs_to_none(tmp_path: Path) -> None:
    student = tiny_student(tmp_path / "student")
    settings: dict[str, Any] = {
        "roles": {"student": student},
        "memory": {"embedder": "hashing", "index": "exact", "min_score": 0.05},
        "distill": {"distillers": ["case"]},
        "compile": {"dev_share": 0.0},
        "plugins": {"auto": False},
    }

    def opened(tenant: str) -> agentkd.Workspace:
        own = {**settings, "memory": {**settings["memory"], "scope": {"tenant": tenant}}}
        return agentkd.Workspace(tmp_path / "shop", settings=own)

    requests = {tenant: f"Find the parcel of {tenant or 'anybody'}" for tenant in ("", "acme", "beta")}
    with opened("") as shop:
        for tenant, request in requests.items():
            run = example_trajectory(prompt=request)
            made = {"id": f"trj-{tenant}", "scope": Scope(tenant=tenant), "outcome": Outcome(success=True)}
            shop.ledger.trajectories.finish(run.model_copy(update=made))
        assert shop.distill().summary.startswith("3 trajectories")
        tenants = {memory.when_to_use: memory.scope.tenant for memory in shop.ledger.memories.list()}
        assert sorted(tenants.values()) == ["", "acme", "beta"]
    for tenant in requests:
        with opened(tenant) as shop:
            scope = shop.settings.memory.scope.of_suite(shop.trajectories()[0].task.suite)
            hits = shop.memory.recall("Find the parcel", 10, scope=scope)
            assert {hit.memory.scope.tenant for hit in hits} == {"", tenant}
            rows = shop.ledger.datasets.rows(shop.compile().id)
            taught = {run for row in rows for run in row.provenance.trajectories}
            assert taught == {"trj-", f"trj-{tenant}"}


def test_a_suite_recalls_what_it_taught_where_the_scope_names_an_app(tmp_path: Path) -> None:
    red = ToolCall(name="lamp", arguments={"colour": "red"})
    tool = ToolSpec(name="lamp", parameters={"type": "object", "properties": {"colour": {"type": "string"}}})

    class Lamps:
        @agentkd.hookimpl
        def components(self) -> Iterator[Any]:
            splits = {"train": [("Make lamp 1 red!", red)], "later": [("Make lamp 1 red now!", red)]}
            suite = FakeSuite(splits, tools=[tool], name="lamps")
            yield agentkd.Component("suite", "lamps", "Lamps.", lambda settings, kit: suite, NoSettings)

    settings: dict[str, Any] = {
        "roles": {"actor": "scripted:clerk", "student": tiny_student(tmp_path / "student")},
        "model": {"scripted": {"answers": ['{"name": "lamp", "arguments": {"colour": "red"}}'] * 9}},
        "memory": {"embedder": "hashing", "index": "exact", "min_score": 0.01, "scope": {"app": "house"}},
        "distill": {"distillers": ["case"]},
        "compile": {"dev_share": 0.0},
        "cycle": {"suite": "lamps"},
        "plugins": {"auto": False},
    }
    with agentkd.Workspace(tmp_path / "house", settings=settings, plugins=[Lamps()]) as house:
        house.run()
        house.distill()
        assert [memory.scope.app for memory in house.ledger.memories.list()] == ["house"]
        house.run(split="later")
        [later] = house.trajectories(split="later")
        assert later.recalled
