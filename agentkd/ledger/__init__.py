"""The system of record: SQLAlchemy 2 on SQLite in WAL mode, or PostgreSQL by URL.

Importing this package imports SQLAlchemy; `import agentkd` must not import it.
"""

from __future__ import annotations

from agentkd.ledger.admission import Admission
from agentkd.ledger.call import Spend
from agentkd.ledger.checkpoint import ServingEvent
from agentkd.ledger.dataset import DatasetRow
from agentkd.ledger.event import MemoryEvent
from agentkd.ledger.ledger import Ledger
from agentkd.ledger.lineage import LineageGraph, LineageNode
from agentkd.ledger.recall import Recall
from agentkd.ledger.redact import Redact, redact_secrets
from agentkd.ledger.trajectory import RunSummary

__all__ = [
    "Admission",
    "DatasetRow",
    "Ledger",
    "LineageGraph",
    "LineageNode",
    "MemoryEvent",
    "Recall",
    "Redact",
    "RunSummary",
    "ServingEvent",
    "Spend",
    "redact_secrets",
]
