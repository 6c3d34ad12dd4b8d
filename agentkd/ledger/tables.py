"""The tables of the ledger: key columns to query by, and the whole value as JSON in `body`.

Columns are the truth for what changes (counters, status, currency); the body is the value as it was
first stored. Times are UTC. A change here needs a numbered step in `migration.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

__all__ = [
    "SCHEMA_VERSION", "checkpoints", "corrections", "cycles", "dataset_rows", "datasets", "evaluations",
    "index_marks", "leases", "ledger_meta", "memories", "memory_corrections", "memory_events",
    "memory_parents", "memory_status", "memory_trajectories", "metadata", "model_calls", "phases",
    "recalls", "revoked_trajectories", "row_corrections", "row_memories", "row_trajectories", "serving",
    "steps", "store_items", "student_reports", "synthetic_memories", "synthetic_reports",
    "synthetic_seeds", "tainted_rows", "trajectories", "trials",
]  # fmt: skip

SCHEMA_VERSION = 7

metadata = sa.MetaData()


class UtcTime(sa.TypeDecorator[datetime]):
    """An aware UTC time, stored without its zone because SQLite keeps none."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Store UTC; a time without a zone is taken as UTC."""
        if value is None or value.tzinfo is None:
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Give the zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


def _text(name: str, *args: Any, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.String, *args, nullable=False, **options)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, default=0)


def _time(name: str) -> sa.Column[datetime]:
    return sa.Column(name, UtcTime, nullable=False)


def _body() -> sa.Column[str]:
    return sa.Column("body", sa.Text, nullable=False)


def _link(name: str, source: sa.Table, target: sa.Table, *, key: str = "id") -> sa.Table:
    """Make a many-to-many table `(source, target)` with an index for the way back."""
    return sa.Table(
        name,
        metadata,
        _text("source", sa.ForeignKey(f"{source.name}.id"), primary_key=True),
        _text("target", sa.ForeignKey(f"{target.name}.{key}"), primary_key=True, index=True),
    )


ledger_meta = sa.Table(
    "ledger_meta", metadata, _text("key", primary_key=True), sa.Column("value", sa.Text, nullable=False)
)

trajectories = sa.Table(
    "trajectories",
    metadata,
    _text("id", primary_key=True),
    _text("run_id"),
    _text("suite"),
    _text("split"),
    _text("task_id", index=True),
    _count("attempt"),
    _text("model"),
    sa.Column("is_finished", sa.Boolean, nullable=False),
    sa.Column("is_redacted", sa.Boolean, nullable=False),
    sa.Column("success", sa.Boolean),
    _time("created_at"),
    _body(),
    sa.Index("ix_trajectories_run", "run_id", "is_finished"),
    sa.Index("ix_trajectories_suite", "suite", "split", "created_at"),
    sa.Index("ix_trajectories_created", "created_at", "id"),
)

steps = sa.Table(
    "steps",
    metadata,
    _text("trajectory_id", sa.ForeignKey("trajectories.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    _body(),
)

corrections = sa.Table(
    "corrections",
    metadata,
    _text("id", primary_key=True),
    _text("trajectory_id", sa.ForeignKey("trajectories.id"), index=True),
    _text("source"),
    _text("kind"),
    _time("created_at"),
    _body(),
)

revoked_trajectories = sa.Table(
    "revoked_trajectories",
    metadata,
    _text("trajectory_id", sa.ForeignKey("trajectories.id"), primary_key=True),
    _text("reason"),
    _time("happened_at"),
)

memories = sa.Table(
    "memories",
    metadata,
    _text("id", primary_key=True),
    _text("kind", index=True),
    _text("origin"),
    _text("privacy"),
    _text("tenant"),
    _text("app"),
    _text("agent"),
    _text("user"),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("parent", sa.String, sa.ForeignKey("memories.id")),
    sa.Column("successor", sa.String, sa.ForeignKey("memories.id")),
    sa.Column("current", sa.Boolean, nullable=False),
    _text("status", server_default=""),
    _text("status_reason", server_default=""),
    sa.Column("status_at", UtcTime),  # the status for the base, with the reason and the time of it
    _count("support"),
    _count("recalls"),
    _count("wins"),
    _count("held_out"),
    _count("held_out_wins"),
    sa.Column("lesson", sa.String, index=True),
    _time("created_at"),
    _body(),
)

memory_parents = _link("memory_parents", memories, memories)
memory_trajectories = _link("memory_trajectories", memories, trajectories)
memory_corrections = _link("memory_corrections", memories, corrections)

memory_status = sa.Table(
    "memory_status",
    metadata,
    _text("memory_id", sa.ForeignKey("memories.id"), primary_key=True),
    _text("checkpoint", primary_key=True),
    _text("status"),
    _text("reason"),
    _time("changed_at"),
)

memory_events = sa.Table(
    "memory_events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _text("memory_id", sa.ForeignKey("memories.id"), index=True),
    _text("kind"),
    _text("checkpoint"),
    _text("reason"),
    _time("happened_at"),
    _text("status", server_default=""),
    sa.Column("current", sa.Boolean),
    sa.Column("details", sa.Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

index_marks = sa.Table(
    "index_marks",
    metadata,
    _text("name", primary_key=True),
    _count("seq"),
    _time("moved_at"),
)

store_items = sa.Table(
    "store_items",
    metadata,
    _text("space", primary_key=True),
    _text("namespace", primary_key=True),
    _text("name", primary_key=True),
    _text("memory_id", sa.ForeignKey("memories.id"), index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("ttl_minutes", sa.Float),
    sa.Column("expires_at", UtcTime, index=True),
    _time("created_at"),
    _time("updated_at"),
    sa.Index("ix_store_items_number", "space", "number"),
)

recalls = sa.Table(
    "recalls",
    metadata,
    _text("trajectory_id", sa.ForeignKey("trajectories.id"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    _text("memory_id", sa.ForeignKey("memories.id"), primary_key=True, index=True),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("withheld", sa.Boolean, nullable=False),
    sa.Column("win", sa.Boolean),
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _text("trajectory_id", sa.ForeignKey("trajectories.id"), unique=True),
    _text("arm"),
    _text("tenant"),
    _text("app"),
    _text("agent"),
    _text("user"),
    sa.Column("win", sa.Boolean),
    sa.Index("ix_trials_scope", "tenant", "app", "agent", "user", "seq"),
    sqlite_autoincrement=True,
)

datasets = sa.Table("datasets", metadata, _text("id", primary_key=True), _time("created_at"), _body())

dataset_rows = sa.Table(
    "dataset_rows",
    metadata,
    _text("dataset_id", sa.ForeignKey("datasets.id"), primary_key=True),
    _text("example_id", primary_key=True, index=True),
    _count("position"),
    _text("split"),
    _text("task_id"),
    _text("kind"),
    sa.Column("provenance", sa.Text, nullable=False),
)


def _row_link(name: str, target: sa.Table) -> sa.Table:
    """Make a table that links dataset rows to what they were made from."""
    return sa.Table(
        name,
        metadata,
        _text("dataset_id", primary_key=True),
        _text("source", primary_key=True),
        _text("target", sa.ForeignKey(f"{target.name}.id"), primary_key=True, index=True),
        sa.ForeignKeyConstraint(
            ["dataset_id", "source"], ["dataset_rows.dataset_id", "dataset_rows.example_id"]
        ),
        sa.Index(f"ix_{name}_source", "source"),
    )


row_memories = _row_link("row_memories", memories)
row_trajectories = _row_link("row_trajectories", trajectories)
row_corrections = _row_link("row_corrections", corrections)

tainted_rows = sa.Table(
    "tainted_rows",
    metadata,
    _text("dataset_id", primary_key=True),
    _text("example_id", primary_key=True),
    _text("reason"),
    _time("happened_at"),
    sa.ForeignKeyConstraint(
        ["dataset_id", "example_id"], ["dataset_rows.dataset_id", "dataset_rows.example_id"]
    ),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    _text("name", primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    _text("base_id"),
    _text("dataset_id", sa.ForeignKey("datasets.id"), index=True),
    sa.Column("parent", sa.String, sa.ForeignKey("checkpoints.name")),
    _text("status"),
    _time("created_at"),
    _body(),
)

serving = sa.Table(
    "serving",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _text("action"),
    sa.Column("name", sa.String, sa.ForeignKey("checkpoints.name"), nullable=False),
    _text("reason"),
    _time("happened_at"),
    sqlite_autoincrement=True,
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    _text("id", primary_key=True),
    _text("suite"),
    _text("split"),
    _text("checkpoint", server_default="", index=True),
    _time("created_at"),
    _body(),
)

student_reports = sa.Table(
    "student_reports",
    metadata,
    _text("id", primary_key=True),
    _text("suite"),
    _text("checkpoint", index=True),
    _time("created_at"),
    _body(),
)

synthetic_seeds = _link("synthetic_seeds", trajectories, trajectories)
synthetic_memories = _link("synthetic_memories", trajectories, memories)
synthetic_reports = _link("synthetic_reports", trajectories, student_reports)

cycles = sa.Table(
    "cycles",
    metadata,
    _text("id", primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
    _text("suite"),
    _text("status"),
    _time("created_at"),
    _body(),
)

phases = sa.Table(
    "phases",
    metadata,
    _text("cycle_id", primary_key=True),
    _text("name", primary_key=True),
    _text("key", primary_key=True, index=True),
    _text("status"),
    _time("started_at"),
    _body(),
)

leases = sa.Table(
    "leases",
    metadata,
    _text("name", primary_key=True),
    _text("owner"),
    sa.Column("epoch", sa.Integer, nullable=False),
    _time("taken_at"),
    _time("expires_at"),
    _text("process"),
    _text("token"),
)

model_calls = sa.Table(
    "model_calls",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _text("purpose", index=True),
    _text("model"),
    _text("run_id"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    _count("cached_tokens"),
    sa.Column("usd", sa.Float),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("ok", sa.Boolean, nullable=False),
    _text("error"),
    _time("happened_at"),
    sqlite_autoincrement=True,
)
