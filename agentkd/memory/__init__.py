"""MEMORY: admit, index, recall, render, refine and audit what was learnt.

The ledger holds the memories; the index is a projection of it that may be deleted at any time, and
what may be recalled is decided by the ledger's status, never by what the index happens to hold.
"""

from __future__ import annotations

from agentkd.memory.admission import Admission
from agentkd.memory.audit import Audit, DuplicateRate, MemoryPair, look_over
from agentkd.memory.check import IndexCheck
from agentkd.memory.edit import Edit
from agentkd.memory.index_chroma import ChromaIndex, ChromaSettings
from agentkd.memory.index_exact import ExactIndex
from agentkd.memory.lift import LiftReport, MemoryLift, ScopeLift, lift_report
from agentkd.memory.lock import IndexLock
from agentkd.memory.prune import UtilityPruneRefiner, UtilityPruneSettings
from agentkd.memory.refine import TtlRefiner, TtlSettings
from agentkd.memory.render import fitting, render
from agentkd.memory.store import MemoryStore

__all__ = [
    "Admission",
    "Audit",
    "ChromaIndex",
    "ChromaSettings",
    "DuplicateRate",
    "Edit",
    "ExactIndex",
    "IndexCheck",
    "IndexLock",
    "LiftReport",
    "MemoryLift",
    "MemoryPair",
    "MemoryStore",
    "ScopeLift",
    "TtlRefiner",
    "TtlSettings",
    "UtilityPruneRefiner",
    "UtilityPruneSettings",
    "fitting",
    "lift_report",
    "look_over",
    "render",
]
