"""What a backup holds: every file with its hash, and what the ledger in it counts."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from agentkd.schema.base import Value, now

__all__ = ["Backup"]


class Backup(Value):
    """The manifest of a backup, `backup.json`."""

    created_at: datetime = Field(default_factory=now)
    """When the ledger was as it is in the backup (UTC)."""
    agentkd: str
    """Version that wrote it."""
    schema_version: int
    """Version of the ledger's schema."""
    files: dict[str, str]
    """sha256 of every file, by its path in the backup."""
    counts: dict[str, int]
    """Facts of the ledger by kind."""
    missing: tuple[str, ...] = ()
    """Datasets and checkpoints that the ledger knows and whose files were gone or damaged already."""
