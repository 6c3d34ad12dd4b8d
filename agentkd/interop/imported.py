"""What a foreign file became: memories with the place each stood at, and what could not be read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from agentkd.schema import Memory, Value

__all__ = ["Imported", "Item", "Skipped"]


class Skipped(Value):
    """An entry that is not taken over."""

    place: str
    """Where it stands, such as `line 12` or `results[3]`."""
    reason: str
    """What is wrong with it."""


class Item(Value):
    """What a store held in a namespace."""

    namespace: tuple[str, ...]
    """Labels, from the root."""
    key: str
    """Name within the namespace; empty for an entry that names none."""
    value: dict[str, Any]
    """What it held."""
    index: Any = None
    """Paths whose texts are searched; None for the store's own, False for none."""
    at: datetime
    """Since when (UTC)."""
    ttl_minutes: float | None = None
    """Minutes that it lives after its last use; None for ever."""
    expires_at: datetime | None = None
    """When that time is over (UTC), as things stood; None for one that lives for ever."""


class Imported(Value):
    """The entries of a foreign file or folder, in its order; nothing is stored yet."""

    path: str
    """File or folder that was read."""
    format: str
    """Name of its format."""
    memories: tuple[Memory, ...] = ()
    """Candidates with the origin `import:<format>`; equal entries give equal candidates."""
    places: tuple[str, ...] = ()
    """Where each memory stood, in the same order."""
    skipped: tuple[Skipped, ...] = ()
    """Entries that could not be read, each with its place and reason."""
    items: dict[int, Item] = Field(default_factory=dict)
    """The memories that a store held, by their position."""
    counts_use: bool = False
    """Whether the store counts how often an entry was used, so that 0 means never."""
