"""Memories read twice are parsed once, and are never older than the database, whoever wrote to it."""

from __future__ import annotations

import pytest

from agentkd.ledger import Ledger, outline, recent
from agentkd.schema import Memory, ToolCall, Utility, memory_id
from agentkd.schema.memory import Scope


def case(when="book a table", **changes):
    fields = {
        "id": memory_id("case", when, when, Scope()),
        "kind": "case",
        "when_to_use": when,
        "content": when,
        "calls": (ToolCall(name="book", arguments={"seats": [1, 2]}),),
        "status": "active",
    }
    return Memory(**{**fields, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.mark.parametrize("checkpoint", ["base", "student-1"])
def test_what_another_process_changes_is_read_at_once(path, checkpoint):
    memory = case()
    with Ledger.open(path) as mine, Ledger.open(path) as other:
        mine.memories.admit([memory])
        assert mine.memories.get(memory.id, checkpoint).status == "active"
        other.memories.set_status(memory.id, "retired", "it is in the weights", "student-1")
        expected = {"base": "active", "student-1": "retired"}[checkpoint]
        assert mine.memories.get(memory.id, checkpoint).status == expected
        other.memories.set_status(memory.id, "revoked", "wrong")
        assert mine.memories.get(memory.id, checkpoint).status == "revoked"


def test_counters_are_those_of_now(path):
    memory = case()
    with Ledger.open(path) as mine, Ledger.open(path) as other:
        mine.memories.admit([memory])
        assert mine.memories.get(memory.id).utility == Utility()
        with other._database.write() as connection:
            connection.exec_driver_sql("UPDATE memories SET recalls = 3, wins = 2, support = 5")
        found = mine.memories.get(memory.id)
        assert (found.utility.recalls, found.utility.wins, found.support) == (3, 2, 5)


def test_what_a_caller_does_to_a_memory_stays_with_him(path):
    memory = case(extras={"note": {"of": "a plugin"}})
    with Ledger.open(path) as ledger:
        ledger.memories.admit([memory])
        for _ in range(2):
            found = ledger.memories.get(memory.id)
            assert found.calls[0].arguments == {"seats": [1, 2]}
            assert found.extras == {"note": {"of": "a plugin"}}
            found.calls[0].arguments["seats"].append(3)
            found.extras["note"]["of"] = "somebody"


def test_a_transaction_reads_what_it_wrote_and_others_do_not(path):
    memory = case()
    with Ledger.open(path) as mine, Ledger.open(path) as other:
        with mine.transaction():
            mine.memories.admit([memory])
            assert mine.memories.get_many([memory.id])
            assert mine.memories.last_seq() == 1
            assert not other.memories.get_many([memory.id])
            assert other.memories.last_seq() == 0
        assert other.memories.get_many([memory.id])


def test_an_equal_row_is_parsed_once_and_the_oldest_ones_leave(path, monkeypatch):
    monkeypatch.setattr(recent, "_MOST", 3)
    parsed = []
    built = recent._built
    monkeypatch.setattr(recent, "_built", lambda row: parsed.append(row[0]) or built(row))
    memories = [case(f"book {i}", calls=()) for i in range(5)]
    with Ledger.open(path) as ledger:
        ledger.memories.admit(memories)
        ids = [memory.id for memory in memories]
        for _ in range(3):
            assert [found.id for found in ledger.memories.get_many(ids[:3])] == ids[:3]
        assert len(parsed) == 3
        ledger.memories.get_many(ids)
        assert len(ledger.memories._recent._parsed._known) == 3


def test_a_ledger_in_memory_answers_too():
    memory = case()
    with Ledger.open("sqlite://") as ledger:
        ledger.memories.admit([memory])
        assert ledger.memories.get(memory.id).calls == memory.calls
        assert ledger.memories.last_seq() == 1


def test_what_was_just_written_is_outlined_without_parsing_it_and_without_its_secrets(path, monkeypatch):
    secret = "ghp_" + "a1B2" * 9
    plain, telling = case(), case(f"log in with {secret}")
    ids = [plain.id, telling.id]
    parsed = []
    parse = outline.parse
    monkeypatch.setattr(outline, "parse", lambda body: parsed.append(body) or parse(body))
    with Ledger.open(path) as mine:
        mine.memories.admit([plain, telling])
        found = mine.outlines.get_many(ids)
        assert len(parsed) == 1  # what was written otherwise than it was given
        assert secret not in str(found)
        with Ledger.open(path) as other:
            assert other.outlines.get_many(ids) == found
            other.memories.supersede(plain.id, newer := case("book two tables"))
        assert [(told.id, current) for told, _, current in mine.outlines.get_many([plain.id, newer.id])] == [
            (plain.id, False),
            (newer.id, True),
        ]
