"""Calibrations: thresholds of similarity that were measured, one record per embedder's fingerprint."""

from __future__ import annotations

from datetime import datetime
from typing import Self

import sqlalchemy as sa
from pydantic import Field, model_validator

from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, upsert
from agentkd.ledger.tables import ledger_meta
from agentkd.schema import Value, now

__all__ = ["Calibration", "Calibrations"]

_PREFIX = "calibration:"


class Calibration(Value):
    """Thresholds for one embedder, and what they were measured on."""

    fingerprint: str
    """The embedder's; other vectors have other cosines."""
    min_score: float = Field(ge=-1.0, le=1.0)
    """Recall abstains below this cosine similarity."""
    min_words: float = Field(ge=0.0)
    """Share of a state's words, weighted by rarity, that a memory found by words alone must hold."""
    related_above: float = Field(ge=-1.0, le=1.0)
    """Situations more similar than this are about the same thing; a refiner may merge them."""
    merge_above: float = Field(ge=-1.0, le=1.0)
    """Situations more similar than this say the same; a candidate corroborates."""
    n_positive: int = 0
    """Pairs that belong together."""
    n_negative: int = 0
    """Pairs that do not."""
    source: str = ""
    """What the pairs were made from."""
    measured_at: datetime = Field(default_factory=now)
    """When (UTC)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.related_above > self.merge_above:
            raise ValueError("`related_above` must not lie above `merge_above`")
        return self


class Calibrations:
    """The newest calibration of every fingerprint that was measured in this ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, fingerprint: str) -> Calibration | None:
        """Return what was measured for an embedder; None where nothing was."""
        c = ledger_meta.c
        with self._database.read() as connection:
            body = connection.execute(
                sa.select(c.value).where(c.key == f"{_PREFIX}{fingerprint}")
            ).scalar_one_or_none()
        return None if body is None else load(Calibration, body)

    def fingerprints(self) -> tuple[str, ...]:
        """Return the fingerprints of the embedders that were measured, sorted."""
        c = ledger_meta.c
        query = sa.select(c.key).where(c.key.startswith(_PREFIX, autoescape=True)).order_by(c.key)
        with self._database.read() as connection:
            return tuple(key.removeprefix(_PREFIX) for key in connection.execute(query).scalars())

    def put(self, calibration: Calibration) -> None:
        """Keep a calibration in the place of the former one of its fingerprint."""
        row = {"key": f"{_PREFIX}{calibration.fingerprint}", "value": dump(calibration)}
        with self._database.write() as connection:
            upsert(connection, ledger_meta, row)

    def drop(self, fingerprint: str) -> bool:
        """Forget a calibration, so that the shipped thresholds hold again; False where there was none."""
        with self._database.write() as connection:
            gone = connection.execute(
                ledger_meta.delete().where(ledger_meta.c.key == f"{_PREFIX}{fingerprint}")
            )
        return gone.rowcount > 0
