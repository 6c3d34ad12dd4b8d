"""The system of record: SQLAlchemy 2 on SQLite in WAL mode, or PostgreSQL by URL.

Importing this package imports SQLAlchemy; `import agentkd` must not import it.
"""

from __future__ import annotations

from agentkd.ledger.admission import Admission
from agentkd.ledger.calibration import Calibration
from agentkd.ledger.call import Spend
from agentkd.ledger.checkpoint import ServingEvent
from agentkd.ledger.dataset import DatasetRow
from agentkd.ledger.event import MemoryEvent
from agentkd.ledger.lease import Lease
from agentkd.ledger.ledger import Ledger
from agentkd.ledger.lineage import LineageGraph, LineageNode, Link
from agentkd.ledger.outline import Outline
from agentkd.ledger.query import Tally
from agentkd.ledger.recall import Arm, Recall, ScopeCounts, Trials
from agentkd.ledger.redact import Redact, redact_secrets
from agentkd.ledger.taint import Reach, Revocations
from agentkd.ledger.trajectory import RunSummary

__all__ = [
    "Admission",
    "Arm",
    "Calibration",
    "DatasetRow",
    "Lease",
    "Ledger",
    "LineageGraph",
    "LineageNode",
    "Link",
    "MemoryEvent",
    "Outline",
    "Reach",
    "Recall",
    "Redact",
    "Revocations",
    "RunSummary",
    "ScopeCounts",
    "ServingEvent",
    "Spend",
    "Tally",
    "Trials",
    "redact_secrets",
]
