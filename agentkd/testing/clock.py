"""A clock that stands still until it is told to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["FixedClock"]


class FixedClock:
    """A callable that returns the same moment (UTC) until `tick` moves it on."""

    def __init__(self, moment: datetime | None = None) -> None:
        self.moment = moment or datetime(2026, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Return the moment."""
        return self.moment

    def tick(self, seconds: float = 1.0) -> datetime:
        """Move on by `seconds` and return the new moment."""
        self.moment += timedelta(seconds=seconds)
        return self.moment
