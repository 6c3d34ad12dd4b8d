"""A time on the command line: `2026-11-22`, `2026-11-22T19:30`, or how long ago: `3d`, `12h`, `90m`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click

__all__ = ["MOMENT", "Moment"]

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Reads a time; without a zone it is UTC."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a time in UTC."""
        if isinstance(value, datetime):
            return value
        from agentkd.schema import now

        ago = _AGO.fullmatch(value.strip())
        try:
            if ago is not None:
                return now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
            found = datetime.fromisoformat(value.strip())
        except (ValueError, OverflowError):
            self.fail(
                f"`{value}` is no time: write 2026-11-22, 2026-11-22T19:30, or 3d, 12h, 90m", param, ctx
            )
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)


MOMENT = Moment()
"""The type of `--at`, `--since` and `--until`."""
