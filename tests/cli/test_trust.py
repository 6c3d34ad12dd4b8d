"""What a file claims waits: it is shown with its sources, and a person lets it in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentkd.cli import main

from .test_import_runs import TRAJ, agentkd

SHOP = ("--set", "memory.index=exact", "--set", "memory.embedder=hashing", "--set", "memory.min_score=-1.0")


@pytest.fixture
def desk(tmp_path: Path) -> tuple[str, ...]:
    agentkd("init", str(tmp_path / "shop"))
    return ("-C", str(tmp_path / "shop"), *SHOP)


def taken_in(tmp_path: Path, desk: tuple[str, ...], *options: str) -> str:
    file = tmp_path / "traces.json"
    file.write_text(json.dumps([{"task_id": 1, "reward": 1.0, "traj": TRAJ}]), encoding="utf-8")
    agentkd(*desk, "runs", "import", str(file), "--suite", "tables", *options)
    return agentkd(*desk, "distill")


def test_a_file_that_says_it_succeeded_waits_and_a_person_lets_it_in(
    tmp_path: Path, desk: tuple[str, ...]
) -> None:
    assert "1 wait in quarantine" in taken_in(tmp_path, desk)
    [memory] = json.loads(agentkd(*desk, "--json", "memory", "list", "--status", "quarantined"))
    assert memory["trust"] == "untrusted"
    assert json.loads(agentkd(*desk, "--json", "memory", "recall", "Book a table", "--app", "tables")) == []
    shown = agentkd(*desk, "memory", "show", memory["id"])
    assert "untrusted import:" in shown
    assert json.loads(agentkd(*desk, "--json", "memory", "admit", memory["id"])) == {
        "admitted": [memory["id"]]
    }
    [hit] = json.loads(agentkd(*desk, "--json", "memory", "recall", "Book a table", "--app", "tables"))
    assert hit["memory"]["trust"] == "admitted"
    told = agentkd(*desk, "--json", "memory", "history", memory["id"])
    reasons = [event["reason"] for event in json.loads(told)["events"]]
    assert "its run was read from" in reasons[0]
    assert reasons[-1] == "person: looked at and admitted"
    assert "did not wait" in agentkd(*desk, "memory", "admit", memory["id"])


def test_a_person_answers_for_a_file_at_once(tmp_path: Path, desk: tuple[str, ...]) -> None:
    assert "wait" not in taken_in(tmp_path, desk, "--vouch")
    [memory] = json.loads(agentkd(*desk, "--json", "memory", "list", "--status", "active"))
    assert memory["trust"] == "trusted"


def test_imported_memories_wait_where_the_settings_say_so(tmp_path: Path, desk: tuple[str, ...]) -> None:
    file = tmp_path / "mem0.json"
    file.write_text(json.dumps({"results": [{"id": "1", "memory": "Ann drinks tea"}]}), encoding="utf-8")
    strict = (*desk, "--set", "trust.imports=quarantined")
    agentkd(*strict, "memory", "import", str(file))
    assert json.loads(agentkd(*desk, "--json", "memory", "recall", "Who drinks tea?")) == []
    [memory] = json.loads(agentkd(*desk, "--json", "memory", "list"))
    assert (memory["status"], memory["trust"]) == ("quarantined", "untrusted")


def test_an_unknown_id_admits_none(desk: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*desk, "memory", "admit", "mem-unknown"]) != 0
    assert "mem-unknown" in capsys.readouterr().err
