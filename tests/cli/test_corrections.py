"""`agentkd runs` tells corrections per task."""

from __future__ import annotations

from typing import Any


def test_runs_tell_corrections_per_task(cli: Any, shop: Any) -> None:
    (found,) = cli("-C", shop, "runs", "corrections", "--json").json
    assert found["per_task"] == found["n_corrections"] / found["n_tasks"]
    shown = cli("-C", shop, "runs", "corrections", "--suite", "jsonl", "-n", "3").out
    assert f"{found['per_task']:.2f}" in shown
    assert cli("-C", shop, "runs", "corrections", "--suite", "other", "--json").json == []
    assert "corrections per task" in " ".join(cli("-C", shop, "runs", "list").out.split())
