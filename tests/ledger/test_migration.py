"""An older ledger is brought up to date in one transaction; a newer or foreign one is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger import Ledger
from agentkd.ledger.migration import MIGRATIONS
from agentkd.ledger.tables import SCHEMA_VERSION

Make = Any

# The tables of version 1 as they were released. Never edit this text.
VERSION_1 = """
CREATE TABLE checkpoints (name VARCHAR NOT NULL, number INTEGER NOT NULL, base_id VARCHAR NOT NULL,
dataset_id VARCHAR NOT NULL, parent VARCHAR, status VARCHAR NOT NULL, created_at DATETIME NOT NULL, body
TEXT NOT NULL, PRIMARY KEY (name), FOREIGN KEY(dataset_id) REFERENCES datasets (id), FOREIGN KEY(parent)
REFERENCES checkpoints (name));
CREATE TABLE corrections (id VARCHAR NOT NULL, trajectory_id VARCHAR NOT NULL, source VARCHAR NOT NULL,
kind VARCHAR NOT NULL, created_at DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id), FOREIGN
KEY(trajectory_id) REFERENCES trajectories (id));
CREATE TABLE cycles (id VARCHAR NOT NULL, number INTEGER NOT NULL, suite VARCHAR NOT NULL, status VARCHAR
NOT NULL, created_at DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id), UNIQUE (number));
CREATE TABLE dataset_rows (dataset_id VARCHAR NOT NULL, example_id VARCHAR NOT NULL, position INTEGER NOT
NULL, split VARCHAR NOT NULL, task_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, provenance TEXT NOT NULL,
PRIMARY KEY (dataset_id, example_id), FOREIGN KEY(dataset_id) REFERENCES datasets (id));
CREATE TABLE datasets (id VARCHAR NOT NULL, created_at DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY
(id));
CREATE TABLE evaluations (id VARCHAR NOT NULL, suite VARCHAR NOT NULL, split VARCHAR NOT NULL, created_at
DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE ledger_meta ("key" VARCHAR NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE memories (id VARCHAR NOT NULL, kind VARCHAR NOT NULL, origin VARCHAR NOT NULL, privacy
VARCHAR NOT NULL, tenant VARCHAR NOT NULL, app VARCHAR NOT NULL, agent VARCHAR NOT NULL, user VARCHAR NOT
NULL, version INTEGER NOT NULL, parent VARCHAR, successor VARCHAR, current BOOLEAN NOT NULL, support
INTEGER NOT NULL, recalls INTEGER NOT NULL, wins INTEGER NOT NULL, held_out INTEGER NOT NULL,
held_out_wins INTEGER NOT NULL, created_at DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id),
FOREIGN KEY(parent) REFERENCES memories (id), FOREIGN KEY(successor) REFERENCES memories (id));
CREATE TABLE memory_corrections (source VARCHAR NOT NULL, target VARCHAR NOT NULL, PRIMARY KEY (source,
target), FOREIGN KEY(source) REFERENCES memories (id), FOREIGN KEY(target) REFERENCES corrections (id));
CREATE TABLE memory_events (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, memory_id VARCHAR NOT NULL,
kind VARCHAR NOT NULL, checkpoint VARCHAR NOT NULL, reason VARCHAR NOT NULL, happened_at DATETIME NOT
NULL, FOREIGN KEY(memory_id) REFERENCES memories (id));
CREATE TABLE memory_status (memory_id VARCHAR NOT NULL, checkpoint VARCHAR NOT NULL, status VARCHAR NOT
NULL, reason VARCHAR NOT NULL, changed_at DATETIME NOT NULL, PRIMARY KEY (memory_id, checkpoint), FOREIGN
KEY(memory_id) REFERENCES memories (id));
CREATE TABLE memory_trajectories (source VARCHAR NOT NULL, target VARCHAR NOT NULL, PRIMARY KEY (source,
target), FOREIGN KEY(source) REFERENCES memories (id), FOREIGN KEY(target) REFERENCES trajectories (id));
CREATE TABLE model_calls (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, purpose VARCHAR NOT NULL, model
VARCHAR NOT NULL, run_id VARCHAR NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT
NULL, cached_tokens INTEGER NOT NULL, usd FLOAT, seconds FLOAT NOT NULL, ok BOOLEAN NOT NULL, error
VARCHAR NOT NULL, happened_at DATETIME NOT NULL);
CREATE TABLE phases (cycle_id VARCHAR NOT NULL, name VARCHAR NOT NULL, "key" VARCHAR NOT NULL, status
VARCHAR NOT NULL, started_at DATETIME NOT NULL, body TEXT NOT NULL, PRIMARY KEY (cycle_id, name, "key"));
CREATE TABLE recalls (trajectory_id VARCHAR NOT NULL, step INTEGER NOT NULL, memory_id VARCHAR NOT NULL,
score FLOAT NOT NULL, withheld BOOLEAN NOT NULL, win BOOLEAN, PRIMARY KEY (trajectory_id, step,
memory_id), FOREIGN KEY(trajectory_id) REFERENCES trajectories (id), FOREIGN KEY(memory_id) REFERENCES
memories (id));
CREATE TABLE row_corrections (dataset_id VARCHAR NOT NULL, source VARCHAR NOT NULL, target VARCHAR NOT
NULL, PRIMARY KEY (dataset_id, source, target), FOREIGN KEY(dataset_id, source) REFERENCES dataset_rows
(dataset_id, example_id), FOREIGN KEY(target) REFERENCES corrections (id));
CREATE TABLE row_memories (dataset_id VARCHAR NOT NULL, source VARCHAR NOT NULL, target VARCHAR NOT NULL,
PRIMARY KEY (dataset_id, source, target), FOREIGN KEY(dataset_id, source) REFERENCES dataset_rows
(dataset_id, example_id), FOREIGN KEY(target) REFERENCES memories (id));
CREATE TABLE row_trajectories (dataset_id VARCHAR NOT NULL, source VARCHAR NOT NULL, target VARCHAR NOT
NULL, PRIMARY KEY (dataset_id, source, target), FOREIGN KEY(dataset_id, source) REFERENCES dataset_rows
(dataset_id, example_id), FOREIGN KEY(target) REFERENCES trajectories (id));
CREATE TABLE serving (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, action VARCHAR NOT NULL, name
VARCHAR NOT NULL, reason VARCHAR NOT NULL, happened_at DATETIME NOT NULL, FOREIGN KEY(name) REFERENCES
checkpoints (name));
CREATE TABLE steps (trajectory_id VARCHAR NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY
KEY (trajectory_id, position), FOREIGN KEY(trajectory_id) REFERENCES trajectories (id));
CREATE TABLE trajectories (id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, suite VARCHAR NOT NULL, split
VARCHAR NOT NULL, task_id VARCHAR NOT NULL, attempt INTEGER NOT NULL, model VARCHAR NOT NULL, is_finished
BOOLEAN NOT NULL, is_redacted BOOLEAN NOT NULL, success BOOLEAN, created_at DATETIME NOT NULL, body TEXT
NOT NULL, PRIMARY KEY (id));
CREATE INDEX ix_checkpoints_dataset_id ON checkpoints (dataset_id);
CREATE INDEX ix_corrections_trajectory_id ON corrections (trajectory_id);
CREATE INDEX ix_dataset_rows_example_id ON dataset_rows (example_id);
CREATE INDEX ix_memories_current ON memories (current);
CREATE INDEX ix_memories_kind ON memories (kind);
CREATE INDEX ix_memories_parent ON memories (parent);
CREATE INDEX ix_memory_corrections_target ON memory_corrections (target);
CREATE INDEX ix_memory_events_memory_id ON memory_events (memory_id);
CREATE INDEX ix_memory_trajectories_target ON memory_trajectories (target);
CREATE INDEX ix_model_calls_purpose ON model_calls (purpose);
CREATE INDEX ix_phases_key ON phases ("key");
CREATE INDEX ix_recalls_memory_id ON recalls (memory_id);
CREATE INDEX ix_row_corrections_source ON row_corrections (source);
CREATE INDEX ix_row_corrections_target ON row_corrections (target);
CREATE INDEX ix_row_memories_source ON row_memories (source);
CREATE INDEX ix_row_memories_target ON row_memories (target);
CREATE INDEX ix_row_trajectories_source ON row_trajectories (source);
CREATE INDEX ix_row_trajectories_target ON row_trajectories (target);
CREATE INDEX ix_trajectories_created ON trajectories (created_at, id);
CREATE INDEX ix_trajectories_run ON trajectories (run_id, is_finished);
CREATE INDEX ix_trajectories_suite ON trajectories (suite, split, created_at);
CREATE INDEX ix_trajectories_task_id ON trajectories (task_id);
INSERT INTO ledger_meta VALUES ('schema_version', '1');
"""


@pytest.fixture
def old(path: Path, make: Make) -> Path:
    """A file of version 1 with one evaluation."""
    with sqlite3.connect(path) as connection:
        connection.executescript(f"BEGIN; {VERSION_1} COMMIT;")
        body = make.evaluation("evl-1", "student@1-a").model_dump_json()
        connection.execute(
            "INSERT INTO evaluations VALUES ('evl-1', 'shop', 'holdout', '2026-01-01 00:00:00.000000', ?)",
            (body,),
        )
    connection.close()
    return path


def test_an_old_file_is_migrated_and_keeps_its_facts(old: Path, make: Make) -> None:
    with Ledger.open(old) as ledger:
        assert [e.id for e in ledger.evaluations.list(checkpoint="student@1-a")] == ["evl-1"]
        assert ledger.memories.index_mark("chroma") == 0
        make.whole_loop(ledger)
        ledger.check()
    Ledger.open(old).close()


def test_a_migrated_file_has_the_schema_of_a_new_one(old: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    Ledger.open(old).close()
    Ledger.open(new).close()
    assert shape(old) == shape(new)


def shape(path: Path) -> dict[str, Any]:
    engine = sa.create_engine(f"sqlite:///{path}")
    inspector = sa.inspect(engine)
    found = {
        table: (
            sorted(
                (c["name"], str(c["type"]), c["nullable"], c["primary_key"])
                for c in inspector.get_columns(table)
            ),
            sorted((i["name"] or "", tuple(i["column_names"])) for i in inspector.get_indexes(table)),
            sorted(
                (f["referred_table"], tuple(f["constrained_columns"]))
                for f in inspector.get_foreign_keys(table)
            ),
        )
        for table in inspector.get_table_names()
    }
    engine.dispose()
    return found


VERSION_2 = f"""{VERSION_1}
CREATE TABLE index_marks (name VARCHAR NOT NULL, seq INTEGER NOT NULL, moved_at DATETIME NOT NULL, PRIMARY
KEY (name));
ALTER TABLE evaluations ADD COLUMN checkpoint VARCHAR DEFAULT '' NOT NULL;
CREATE INDEX ix_evaluations_checkpoint ON evaluations (checkpoint);
UPDATE ledger_meta SET value = '2';
"""
OLD_EVENTS = (
    ("old", "admitted", "as candidate, by `case`", 1),
    ("old", "activated", "approved", 2),
    ("old", "superseded", "by `new`", 3),
    ("new", "admitted", "as active, by `case`", 3),
    ("new", "corroborated", "1 new pieces of evidence", 4),
    ("new", "quarantined", "utility-prune: harmful", 5),
)


@pytest.fixture
def version_2(path: Path, make: Make) -> Path:
    """A file of version 2 with a memory, the version that replaced it, and their events."""
    old = make.memory("old").model_copy(update={"id": "old"})
    new = make.memory("new").model_copy(update={"id": "new", "version": 2, "parent": "old"})
    with sqlite3.connect(path) as connection:
        connection.executescript(f"BEGIN; {VERSION_2} COMMIT;")
        for memory, parent, successor in ((old, None, "new"), (new, "old", None)):
            connection.execute(
                "INSERT INTO memories VALUES "
                "(?, 'insight', 'case', 'shared', '', 'shop', '', '', ?, ?, ?, ?, 1, 0, 0, 0, 0, "
                "'2026-01-01 00:00:00.000000', ?)",
                (memory.id, memory.version, parent, successor, successor is None, memory.model_dump_json()),
            )
        connection.executemany(
            "INSERT INTO memory_status VALUES (?, 'base', ?, '', '2026-01-01 00:00:00.000000')",
            (("old", "active"), ("new", "quarantined")),
        )
        connection.executemany(
            "INSERT INTO memory_events (memory_id, kind, checkpoint, reason, happened_at) "
            "VALUES (?, ?, 'base', ?, ?)",
            [(id_, kind, why, f"2026-01-0{day} 00:00:00.000000") for id_, kind, why, day in OLD_EVENTS],
        )
    connection.close()
    return path


def test_memories_of_version_2_keep_their_past_and_can_be_taken_back(version_2: Path) -> None:
    from datetime import UTC, datetime

    def day(number: int) -> datetime:
        return datetime(2026, 1, number, 12, tzinfo=UTC)

    with Ledger.open(version_2) as ledger:
        memories = ledger.memories
        assert [e.reason for e in memories.events()] == [why for _, _, why, _ in OLD_EVENTS]
        past = [dict(memories.status_for(at=day(number))) for number in (1, 2, 3, 5)]
        assert past == [{"old": "candidate"}, {"old": "active"}, {"new": "active"}, {"new": "quarantined"}]
        assert [m.id for m in memories.history("old")] == ["old", "new"]
        assert "old" in ledger.lineage.down("new").ids("memory")
        assert {m.id for m in memories.without_lesson()} == {"old", "new"}
        assert memories.undo("new") == ("new",)
        assert memories.status_for() == {"new": "active"}
        assert set(memories.undo("old")) == {"old", "new"}
        assert memories.status_for() == {"old": "active"}
        ledger.check()


def test_a_migration_that_fails_leaves_the_old_file_untouched(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shape(old)
    step = MIGRATIONS[SCHEMA_VERSION]

    def fails_late(connection: sa.Connection) -> None:
        step(connection)
        raise StoreError("the power went")

    monkeypatch.setitem(MIGRATIONS, SCHEMA_VERSION, fails_late)
    with pytest.raises(StoreError, match="power"):
        Ledger.open(old)
    assert shape(old) == before
    monkeypatch.undo()
    Ledger.open(old).close()


def test_an_old_file_is_not_migrated_by_a_reader(old: Path) -> None:
    before = shape(old)
    with pytest.raises(StoreError, match=r"schema version 1, this agentkd reads"):
        Ledger.open(old, read_only=True)
    assert shape(old) == before


def test_a_newer_file_is_refused_with_both_versions(path: Path) -> None:
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ledger_meta SET value = '99'")
    connection.close()
    with pytest.raises(StoreError, match=rf"schema version 99, .*version {SCHEMA_VERSION}") as raised:
        Ledger.open(path)
    assert "upgrade" in raised.value.hint


def test_a_file_of_another_program_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE embeddings (id)")
    connection.close()
    with pytest.raises(StoreError, match="`embeddings`"):
        Ledger.open(path)
    assert list(shape(path)) == ["embeddings"]


def test_a_file_without_a_version_is_refused(path: Path) -> None:
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM ledger_meta")
    connection.close()
    with pytest.raises(StoreError, match="does not say its schema version"):
        Ledger.open(path)


FIXTURES = Path(__file__).with_name("fixtures")
"""Ledgers as each released agentkd wrote them, with one of everything."""


def released(version: int, path: Path) -> dict[str, int]:
    """Make the file of a version; return how many rows each table has."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((FIXTURES / f"version_{version}.sql").read_text(encoding="utf-8"))
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in tables
            if not table.startswith("sqlite_")
        }


def test_there_is_a_frozen_ledger_of_every_version() -> None:
    assert {file.name for file in FIXTURES.glob("*.sql")} == {
        f"version_{number}.sql" for number in range(2, SCHEMA_VERSION + 1)
    }


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION + 1))
def test_a_ledger_of_every_released_version_keeps_each_fact(version: int, path: Path, make: Make) -> None:
    before = released(version, path)
    with Ledger.open(path) as ledger:
        ledger.check()
        assert [t.id for t in ledger.trajectories.list()] == ["trj-1", "trj-2"]
        assert ledger.trajectories.get("trj-1") == make.trajectory(1)
        assert ledger.corrections.for_trajectory("trj-1") == [make.correction(1, "trj-1")]
        contents = {m.content: m.id for m in ledger.memories.list(current=None)}
        newest, oldest = contents["look it up twice"], contents["look it up"]
        assert ledger.memories.status_for()[newest] == "active"
        assert ledger.memories.status_for()[contents["a bad lesson"]] == "revoked"
        assert [m.id for m in ledger.memories.history(newest)] == [oldest, newest]
        assert ledger.memories.get(oldest).utility.wins == 1
        assert ledger.datasets.rows("ds-1")[0].provenance.memories == (oldest,)
        serving = ledger.checkpoints.serving()
        assert serving is not None
        assert (serving.name, serving.status) == ("student@1-00000001", "serving")
        assert [e.id for e in ledger.evaluations.list(checkpoint=serving.name)] == ["evl-1"]
        assert [phase.summary for phase in ledger.cycles.phases("cycle-1")] == ["2 of 2"]
        assert {"trj-1", "trj-2"} <= set(ledger.lineage.down(serving.name).ids("trajectory"))
        assert ledger.trajectories.finish(make.trajectory(3)), "it is written to as before"
        assert ledger.leases.take("cycle", 60.0).epoch == 1
        ledger.check()
    with closing(sqlite3.connect(path)) as connection:
        for table, n in before.items():
            more = {"trajectories": 1, "steps": 2, "leases": 1}.get(table, 0)
            if table != "memory_status" or version >= 7:  # the rest is looked at by itself below
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == n + more, table


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION))
def test_a_ledger_of_every_released_version_keeps_each_status(version: int, path: Path) -> None:
    released(version, path)
    its_own = "SELECT memory_id, status, reason, changed_at FROM memory_status WHERE checkpoint = 'base'"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO memory_status SELECT memory_id, 'student@9-x', 'retired', 'it knows', changed_at "
            "FROM memory_status WHERE checkpoint = 'base'"
        )
        connection.commit()
        before = sorted(connection.execute(its_own).fetchall())
    assert {status for _, status, *_ in before} == {"active", "revoked"}
    with Ledger.open(path) as ledger:
        assert ledger.memories.standings(before[0][:1])[before[0][0]].reason == before[0][2]
        for memory_id, status, *_ in before:
            assert ledger.memories.get(memory_id).status == status
            retired = "revoked" if status == "revoked" else "retired"
            assert ledger.memories.get(memory_id, "student@9-x").status == retired
    with closing(sqlite3.connect(path)) as connection:
        now = "SELECT id, status, status_reason, status_at FROM memories"
        assert sorted(connection.execute(now).fetchall()) == before
        left = connection.execute("SELECT DISTINCT checkpoint FROM memory_status").fetchall()
        assert left == [("student@9-x",)], "that for the base is in the memory's own row"


def test_a_memory_whose_status_was_lost_is_quarantined(path: Path) -> None:
    released(6, path)
    with closing(sqlite3.connect(path)) as connection:
        (lost,) = connection.execute("SELECT memory_id FROM memory_status").fetchone()
        connection.execute("DELETE FROM memory_status WHERE memory_id = ?", (lost,))
        connection.commit()
    with Ledger.open(path) as ledger:
        assert ledger.memories.get(lost).status == "quarantined"
        assert "missing" in ledger.memories.standings([lost])[lost].reason


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION + 1))
def test_a_ledger_of_every_released_version_gets_the_schema_of_a_new_one(
    version: int, path: Path, tmp_path: Path
) -> None:
    released(version, path)
    Ledger.open(path).close()
    Ledger.open(tmp_path / "new.db").close()
    assert shape(path) == shape(tmp_path / "new.db")
