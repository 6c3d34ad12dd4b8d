"""Model calls: every one is booked, so that cost is known and caps can be checked before a call."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.ledger.database import Database
from agentkd.ledger.redact import Redact
from agentkd.schema import Usage, Value, now

__all__ = ["CYCLE", "Calls", "Spend"]

CYCLE = "cycle-"
"""Beginning of a cycle's id, which its calls are booked under."""


class Spend(Value):
    """What a set of model calls cost."""

    calls: int = 0
    """Calls, failed ones included."""
    failed: int = 0
    """Calls that failed."""
    prompt_tokens: int = 0
    """Tokens read."""
    completion_tokens: int = 0
    """Tokens written."""
    cached_tokens: int = 0
    """Prompt tokens served from a prefix cache."""
    usd: float = 0.0
    """Money in US dollars, as far as it is known."""
    n_unpriced: int = 0
    """Calls whose price is unknown; `usd` is a lower bound where this is above 0."""
    seconds: float = 0.0
    """Sum of the calls' wall times."""


class Calls:
    """The cost book. Bookings are no facts of the loop: a repeated call costs again and is booked again."""

    def __init__(self, database: Database, redact: Redact) -> None:
        self._database = database
        self._redact = redact

    def book(
        self, purpose: str, model: str, usage: Usage, *, ok: bool = True, error: str = "", run_id: str = ""
    ) -> None:
        """Book one call; `error` says why it failed."""
        row = {
            "purpose": purpose,
            "model": model,
            "run_id": run_id,
            **usage.model_dump(),
            "ok": ok,
            "error": self._redact(error),
            "happened_at": now(),
        }
        with self._database.write() as connection:
            connection.execute(t.model_calls.insert(), [row])

    def total(
        self,
        purpose: str | None = None,
        *,
        run_id: str | None = None,
        since: datetime | None = None,
        of_cycles: bool = False,
    ) -> Spend:
        """Return the sum over calls; `since` is inclusive, `of_cycles` takes those that cycles made alone."""
        c = t.model_calls.c
        where: list[Any] = [c.purpose == purpose] if purpose is not None else []
        where += [c.run_id == run_id] if run_id is not None else []
        where += [c.happened_at >= since] if since is not None else []
        where += [c.run_id.startswith(CYCLE, autoescape=True)] if of_cycles else []
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_sums()).where(*where)).mappings().one()
        return Spend.model_validate(dict(row))

    def by_purpose(self) -> Mapping[str, Spend]:
        """Return the sums per purpose."""
        purpose = t.model_calls.c.purpose
        query = sa.select(purpose, *_sums()).group_by(purpose).order_by(purpose)
        with self._database.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return {row.pop("purpose"): Spend.model_validate(row) for row in rows}


def _sums() -> list[sa.ColumnElement[Any]]:
    c = t.model_calls.c
    counted = {
        "failed": sa.case((c.ok, 0), else_=1),
        "n_unpriced": sa.case((c.usd.is_(None), 1), else_=0),
        **{
            name: c[name]
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "usd", "seconds")
        },
    }
    sums = [sa.func.coalesce(sa.func.sum(value), 0).label(name) for name, value in counted.items()]
    return [sa.func.count().label("calls"), *sums]
