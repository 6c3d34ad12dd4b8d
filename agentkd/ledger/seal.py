"""Seals: what a message says of itself is believed where somebody of this ledger wrote it."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any

import sqlalchemy as sa

from agentkd.ledger.database import Database, insert_many
from agentkd.ledger.tables import ledger_meta

__all__ = ["Seals"]

_NAME = "seal_key"


class Seals:
    """HMAC-SHA256 under a key that every process of a ledger shares; it is made on first use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._key = b""

    def of(self, said: Any) -> str:
        """Return the seal of what JSON can say; anything else counts as its text."""
        text = json.dumps(said, sort_keys=True, default=str)
        return hmac.new(self._shared_key(), text.encode(), hashlib.sha256).hexdigest()

    def fits(self, seal: object, said: Any) -> bool:
        """Whether a seal is that of what is said."""
        return isinstance(seal, str) and hmac.compare_digest(seal.encode(), self.of(said).encode())

    def _shared_key(self) -> bytes:
        if not self._key:
            query = sa.select(ledger_meta.c.value).where(ledger_meta.c.key == _NAME)
            with self._database.read() as connection:
                found = connection.execute(query).scalar_one_or_none()
            if found is None:
                with self._database.write() as connection:  # the first of several processes wins
                    insert_many(connection, ledger_meta, [{"key": _NAME, "value": secrets.token_hex(32)}])
                    found = connection.execute(query).scalar_one()
            self._key = bytes.fromhex(found)
        return self._key
