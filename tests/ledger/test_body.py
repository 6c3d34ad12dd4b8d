"""What ledgers hold of a memory: no defaults, so that these are a part of the format."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Self

import pytest

from agentkd.errors import StoreError
from agentkd.ledger import Ledger
from agentkd.ledger.body import dump, parse
from agentkd.schema import Evidence, Memory, MemoryKeys, Scope, Span, ToolCall, Utility

from .conftest import Make


def test_the_defaults_of_a_memory_are_those_that_ledgers_were_written_with() -> None:
    bare = Memory(id="mem-1", kind="insight", when_to_use="a", content="b").model_dump(mode="json")
    assert bare.pop("created_at")
    assert bare == {
        "schema_version": 1, "id": "mem-1", "kind": "insight", "when_to_use": "a", "content": "b",
        "keys": {"situation": "", "query": "", "task": "", "tools": "", "more": []},
        "scope": {"tenant": "", "app": "", "agent": "", "user": ""},
        "evidence": {"trajectories": [], "corrections": [], "steps": [], "spans": [], "vouched": []},
        "calls": [], "support": 1, "utility": {"recalls": 0, "wins": 0, "held_out": 0, "held_out_wins": 0},
        "confidence": 0.5, "origin": "", "privacy": "shared", "status": "candidate", "trust": "",
        "version": 1, "parent": "", "extras": {},
    }, "a stored memory that does not name a field would read otherwise: migrate it"  # fmt: skip
    span = Span(trajectory="trj-1", origin="user").model_dump(mode="json")
    assert span == {
        "trajectory": "trj-1", "origin": "user", "step": -1, "quote": "", "principal": "", "tool": "",
        "trust": "",
    }, "so would what a memory rests on"  # fmt: skip
    call = ToolCall(name="find").model_dump(mode="json")
    assert call == {"name": "find", "arguments": {}, "id": ""}, "and the calls of a case"


def test_a_memory_of_this_very_moment_keeps_its_time(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Coarse(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 1, 1, tzinfo=tz)

    with Ledger.open(tmp_path / "ledger.db") as ledger:
        with monkeypatch.context() as patched:
            patched.setattr("agentkd.schema.base.datetime", Coarse)
            memory = Memory(id="mem-1", kind="insight", when_to_use="a", content="b")
            ledger.memories.admit([memory])
        assert memory.created_at.year == 2026
        assert ledger.memories.get("mem-1").created_at == datetime(2026, 1, 1, tzinfo=UTC)
        ledger.check()


def test_a_body_holds_no_defaults_and_reads_back_equal(tmp_path: Path, make: Make) -> None:
    bare = Memory(id="mem-1", kind="insight", when_to_use="a", content="b", keys=MemoryKeys(situation="a"))
    bare_span, full_span = Span(trajectory="", origin="user"), Span(trajectory="", origin="tool", step=0)
    full = make.memory("look it up").model_copy(
        update={
            "privacy": "private", "extras": {"a": [1]}, "confidence": 0.9, "scope": Scope(user="ada"),
            "calls": (ToolCall(name="find"), ToolCall(name="find", arguments={"id": ""}, id="1")),
            "evidence": Evidence(spans=(bare_span, full_span)),
        }
    )  # fmt: skip
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        ledger.memories.admit([bare, full])
        assert ledger.memories.get("mem-1") == bare
        assert ledger.memories.get(full.id) == full
        assert ledger.memories.get("mem-1").evidence == Evidence()
        assert ledger.memories.get("mem-1").utility == Utility()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        (body,) = connection.execute("SELECT body FROM memories WHERE id = 'mem-1'").fetchone()
    always = {"#", "schema_version", "created_at"}
    assert set(json.loads(body)) == {*always, "id", "kind", "when_to_use", "content", "keys"}
    assert json.loads(body)["keys"] == {"situation": "a"}


def test_a_column_that_contradicts_what_a_body_leaves_out_is_found(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "ledger.db"
    with Ledger.open(path) as ledger:
        ledger.memories.admit([make.memory("look it up")])
        ledger.check()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE memories SET privacy = 'private'")
        connection.commit()
    with Ledger.open(path) as ledger, pytest.raises(StoreError, match="`privacy` 'private' beside 'shared'"):
        ledger.check()


def test_half_an_emoji_becomes_a_sign_that_every_reader_can_take(tmp_path: Path, make: Make) -> None:
    cut = make.memory("say \ud83d hello", "trj-1")
    with Ledger.open(tmp_path / "ledger.db") as ledger:
        run = make.trajectory(1, answer="\ud83d\ude00 and \udc00")
        ledger.trajectories.finish(run)
        ledger.memories.admit([cut])
        assert ledger.trajectories.get("trj-1").answer == "\U0001f600 and \ufffd"
        memory = ledger.memories.get(cut.id)
        assert memory.content == cut.content.replace("\ud83d", "\ufffd")
        assert memory.model_dump_json()
        ledger.check()


def test_half_an_emoji_that_an_older_agentkd_stored_reads_back_whole() -> None:
    body = dump({"answer": "a \ud83d b", "deep": [{"half \udc00": ["\ud83d\ude00"]}], "n": 1})
    read = {"answer": "a \ufffd b", "deep": [{"half \ufffd": ["\U0001f600"]}], "n": 1}
    assert parse(body) == read
    assert parse(json.dumps({"answer": "a \ud83d b"})) == {"answer": "a \ufffd b"}
