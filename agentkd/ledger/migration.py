"""Bring a ledger to the present schema: numbered steps, all of them in one transaction.

A step is frozen once released: it speaks plain SQL and never uses `tables.py`, which moves on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger.database import Database
from agentkd.ledger.tables import SCHEMA_VERSION, ledger_meta, metadata

__all__ = ["MIGRATIONS", "prepare", "version_of"]

Migration = Callable[[sa.Connection], None]


def _to_2(connection: sa.Connection) -> None:
    """Remember how far each index is, and which checkpoint an evaluation judged."""
    run = connection.exec_driver_sql
    run(
        "CREATE TABLE index_marks (name VARCHAR NOT NULL, seq INTEGER NOT NULL, "
        f"moved_at {_time(connection)} NOT NULL, PRIMARY KEY (name))"
    )
    run("ALTER TABLE evaluations ADD COLUMN checkpoint VARCHAR DEFAULT '' NOT NULL")
    run("CREATE INDEX ix_evaluations_checkpoint ON evaluations (checkpoint)")
    for id_, body in run("SELECT id, body FROM evaluations").all():
        connection.execute(
            sa.text("UPDATE evaluations SET checkpoint = :checkpoint WHERE id = :id"),
            {"checkpoint": json.loads(body).get("checkpoint", ""), "id": id_},
        )


def _store_items_in_3(connection: sa.Connection) -> None:
    """Hold the items of a LangGraph store: which memory is the value of a key."""
    run, time = connection.exec_driver_sql, _time(connection)
    run(
        "CREATE TABLE store_items (space VARCHAR NOT NULL, namespace VARCHAR NOT NULL, "
        "name VARCHAR NOT NULL, memory_id VARCHAR NOT NULL, number INTEGER NOT NULL, ttl_minutes FLOAT, "
        f"expires_at {time}, created_at {time} NOT NULL, updated_at {time} NOT NULL, "
        "PRIMARY KEY (space, namespace, name), FOREIGN KEY(memory_id) REFERENCES memories (id))"
    )
    run("CREATE INDEX ix_store_items_memory_id ON store_items (memory_id)")
    run("CREATE INDEX ix_store_items_expires_at ON store_items (expires_at)")
    run("CREATE INDEX ix_store_items_number ON store_items (space, number)")


def _memories_in_3(connection: sa.Connection) -> None:
    """Let a memory have several parents, know its lesson, and let events say what they changed."""
    run = connection.exec_driver_sql
    run(
        "CREATE TABLE memory_parents (source VARCHAR NOT NULL, target VARCHAR NOT NULL, "
        "PRIMARY KEY (source, target), FOREIGN KEY(source) REFERENCES memories (id), "
        "FOREIGN KEY(target) REFERENCES memories (id))"
    )
    run("CREATE INDEX ix_memory_parents_target ON memory_parents (target)")
    run("INSERT INTO memory_parents SELECT id, parent FROM memories WHERE parent IS NOT NULL")
    run("ALTER TABLE memories ADD COLUMN lesson VARCHAR")
    run("CREATE INDEX ix_memories_lesson ON memories (lesson)")
    run("ALTER TABLE memory_events ADD COLUMN status VARCHAR DEFAULT '' NOT NULL")
    run("ALTER TABLE memory_events ADD COLUMN current BOOLEAN")
    run("ALTER TABLE memory_events ADD COLUMN details TEXT DEFAULT '' NOT NULL")
    chain = run("SELECT id, parent FROM memories WHERE parent IS NOT NULL").all()
    parents = {str(row[0]): str(row[1]) for row in chain}
    update = sa.text(
        "UPDATE memory_events SET status = :status, current = :current, details = :details WHERE seq = :seq"
    ).bindparams(sa.bindparam("current", type_=sa.Boolean))
    for seq, memory_id, kind, reason in run("SELECT seq, memory_id, kind, reason FROM memory_events").all():
        status, current, details = _effect_in_2(memory_id, kind, reason, parents)
        values = {"status": status, "current": current, "details": details, "seq": seq}
        connection.execute(update, values)


def _effect_in_2(
    memory_id: str, kind: str, reason: str, parents: dict[str, str]
) -> tuple[str, bool | None, str]:
    """Read from an event of version 2 what it changed: status, currency and who took the place."""
    if kind == "admitted":
        said = re.match(r"as (\w+), by ", reason)
        return (said[1], True, "") if said else ("candidate", None, "")
    if kind == "reactivated" and reason == "it is the current version again":
        return "", True, ""
    if kind in ("activated", "reactivated"):
        return "active", None, ""
    if kind == "superseded":
        by = reason.removeprefix("by ").strip("`")
        return "", False, json.dumps({"by": by, "made": parents.get(by) == memory_id}, separators=(",", ":"))
    return ("" if kind in ("corroborated", "merged") else kind), None, ""


def _trials_in_3(connection: sa.Connection) -> None:
    """Remember which tasks recalled something, and whether a trial withheld it."""
    serial = "INTEGER NOT NULL" if connection.dialect.name == "sqlite" else "SERIAL NOT NULL"
    key = "PRIMARY KEY AUTOINCREMENT" if connection.dialect.name == "sqlite" else "PRIMARY KEY"
    run = connection.exec_driver_sql
    run(
        f"CREATE TABLE trials (seq {serial} {key}, trajectory_id VARCHAR NOT NULL, arm VARCHAR NOT NULL, "
        'tenant VARCHAR NOT NULL, app VARCHAR NOT NULL, agent VARCHAR NOT NULL, "user" VARCHAR NOT NULL, '
        "win BOOLEAN, UNIQUE (trajectory_id), FOREIGN KEY(trajectory_id) REFERENCES trajectories (id))"
    )
    run('CREATE INDEX ix_trials_scope ON trials (tenant, app, agent, "user", seq)')


def _to_3(connection: sa.Connection) -> None:
    """Give memories parents and events effects; keep trials and the items of stores."""
    _memories_in_3(connection)
    _trials_in_3(connection)
    _store_items_in_3(connection)


def _synthetic_in_4(connection: sa.Connection) -> None:
    """Keep student reports, and what a teacher was shown when it wrote a trajectory."""
    run = connection.exec_driver_sql
    run(
        "CREATE TABLE student_reports (id VARCHAR NOT NULL, suite VARCHAR NOT NULL, "
        f"checkpoint VARCHAR NOT NULL, created_at {_time(connection)} NOT NULL, body TEXT NOT NULL, "
        "PRIMARY KEY (id))"
    )
    run("CREATE INDEX ix_student_reports_checkpoint ON student_reports (checkpoint)")
    for name, target in (("seeds", "trajectories"), ("memories", "memories"), ("reports", "student_reports")):
        run(
            f"CREATE TABLE synthetic_{name} (source VARCHAR NOT NULL, target VARCHAR NOT NULL, "
            "PRIMARY KEY (source, target), FOREIGN KEY(source) REFERENCES trajectories (id), "
            f"FOREIGN KEY(target) REFERENCES {target} (id))"
        )
        run(f"CREATE INDEX ix_synthetic_{name}_target ON synthetic_{name} (target)")


def _to_4(connection: sa.Connection) -> None:
    """Know what teachers wrote."""
    _synthetic_in_4(connection)


def _to_5(connection: sa.Connection) -> None:
    """Remember which trajectories were revoked, and which rows were made from what was."""
    run, time = connection.exec_driver_sql, _time(connection)
    run(
        "CREATE TABLE revoked_trajectories (trajectory_id VARCHAR NOT NULL, reason VARCHAR NOT NULL, "
        f"happened_at {time} NOT NULL, PRIMARY KEY (trajectory_id), "
        "FOREIGN KEY(trajectory_id) REFERENCES trajectories (id))"
    )
    run(
        "CREATE TABLE tainted_rows (dataset_id VARCHAR NOT NULL, example_id VARCHAR NOT NULL, "
        f"reason VARCHAR NOT NULL, happened_at {time} NOT NULL, PRIMARY KEY (dataset_id, example_id), "
        "FOREIGN KEY(dataset_id, example_id) REFERENCES dataset_rows (dataset_id, example_id))"
    )
    run(
        "INSERT INTO tainted_rows SELECT dataset_id, source, MIN(s.reason), MIN(s.changed_at) "
        "FROM row_memories JOIN memory_status s ON s.memory_id = target "
        "WHERE s.checkpoint = 'base' AND s.status = 'revoked' GROUP BY dataset_id, source"
    )


def _to_6(connection: sa.Connection) -> None:
    """Know who may do a piece of work alone."""
    time = _time(connection)
    connection.exec_driver_sql(
        "CREATE TABLE leases (name VARCHAR NOT NULL, owner VARCHAR NOT NULL, epoch INTEGER NOT NULL, "
        f"taken_at {time} NOT NULL, expires_at {time} NOT NULL, process VARCHAR NOT NULL, "
        "token VARCHAR NOT NULL, PRIMARY KEY (name))"
    )


def _to_7(connection: sa.Connection) -> None:
    """Keep a memory's status for the base in its own row: every admission wrote to one more tree for it."""
    run, fields = connection.exec_driver_sql, "status, status_reason, status_at"
    run("ALTER TABLE memories ADD COLUMN status VARCHAR DEFAULT '' NOT NULL")
    run("ALTER TABLE memories ADD COLUMN status_reason VARCHAR DEFAULT '' NOT NULL")
    run(f"ALTER TABLE memories ADD COLUMN status_at {_time(connection)}")
    its_own = "memory_status s WHERE s.memory_id = memories.id AND s.checkpoint = 'base'"
    run(
        f"UPDATE memories SET ({fields}) = (SELECT s.status, s.reason, s.changed_at FROM {its_own}) "
        f"WHERE EXISTS (SELECT 1 FROM {its_own})"
    )
    run(
        "UPDATE memories SET status = 'quarantined', status_reason = 'its status was missing', "
        "status_at = created_at WHERE status = ''"
    )
    run("DELETE FROM memory_status WHERE checkpoint = 'base'")
    run("DROP INDEX ix_memories_current")  # nearly all are: whoever used it read the whole table
    run("DROP INDEX ix_memories_parent")  # nobody asked by it: `memory_parents` knows


def _time(connection: sa.Connection) -> str:
    return "DATETIME" if connection.dialect.name == "sqlite" else "TIMESTAMP WITHOUT TIME ZONE"


MIGRATIONS: dict[int, Migration] = {2: _to_2, 3: _to_3, 4: _to_4, 5: _to_5, 6: _to_6, 7: _to_7}
"""Step by the version that it leads to."""


def prepare(database: Database) -> None:
    """Create the tables in an empty database or migrate an older one; raises StoreError for a newer one."""
    with database.read() as connection:
        found = version_of(connection)
    _refuse_newer(database, found)
    if found == SCHEMA_VERSION:
        return
    if database.read_only:
        raise StoreError(
            f"the ledger `{database.where}` has schema version {found}, this agentkd reads {SCHEMA_VERSION}",
            hint="open it once for writing: any agentkd command but a read-only one migrates it",
        )
    with database.write() as connection:
        found = version_of(connection)  # another process may have been faster
        _refuse_newer(database, found)
        if found == 0:
            metadata.create_all(connection, checkfirst=False)
        for version in range(max(found, 1) + 1, SCHEMA_VERSION + 1):
            if found:
                MIGRATIONS[version](connection)
        _stamp(connection, found)


def version_of(connection: sa.Connection) -> int:
    """Return the schema version; 0 for an empty database; raises StoreError for a foreign one."""
    names = set(sa.inspect(connection).get_table_names())
    if ledger_meta.name not in names:
        foreign = names if connection.dialect.name == "sqlite" else names & set(metadata.tables)
        if foreign:
            raise StoreError(
                f"the database holds tables of another program: `{'`, `'.join(sorted(foreign)[:3])}`",
                hint="name a path or a database of its own for the ledger",
            )
        return 0
    value = connection.execute(
        sa.select(ledger_meta.c.value).where(ledger_meta.c.key == "schema_version")
    ).scalar_one_or_none()
    if value is None or not value.isdigit():
        raise StoreError("the ledger does not say its schema version", hint="restore it from a backup")
    return int(value)


def _refuse_newer(database: Database, found: int) -> None:
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"the ledger `{database.where}` has schema version {found}, "
            f"this agentkd knows up to version {SCHEMA_VERSION}",
            hint="pip install --upgrade agentkd",
            found=found,
            known=SCHEMA_VERSION,
        )


def _stamp(connection: sa.Connection, found: int) -> None:
    row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
    if found:
        where = ledger_meta.c.key == row["key"]
        connection.execute(ledger_meta.update().where(where).values(value=row["value"]))
    else:
        connection.execute(ledger_meta.insert(), [row])
