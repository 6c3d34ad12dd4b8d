"""VALUES: frozen pydantic models that every stage speaks in; no I/O."""

from __future__ import annotations

from agentkd.schema.base import Value, canonical_json, content_id, now, sortable_id
from agentkd.schema.checkpoint import AnchorSettings, Checkpoint, LoraSettings, TrainJob, TrainSettings
from agentkd.schema.example import DatasetCard, Example, Provenance, Rendered
from agentkd.schema.lift import Lift, lift_of, mean_lift, pooled_prior
from agentkd.schema.memory import (
    NOTES_BEGIN,
    NOTES_END,
    Evidence,
    Hit,
    Memory,
    MemoryEdit,
    MemoryKeys,
    MemoryStatus,
    Scope,
    Span,
    Standing,
    Utility,
    memory_id,
)
from agentkd.schema.message import Message, Reply, TokenTrace, ToolCall, ToolResult, ToolSpec, Usage
from agentkd.schema.plan import Advice, TrainPlan
from agentkd.schema.report import (
    ArmResult,
    CorrectionRound,
    CycleReport,
    Evaluation,
    Interval,
    Paired,
    PhaseReport,
    TaskResult,
    Verdict,
)
from agentkd.schema.task import Failure, Outcome, Task, is_held_out
from agentkd.schema.trajectory import RETRY_STRIDE, Correction, Step, Trajectory

__all__ = [
    "NOTES_BEGIN",
    "NOTES_END",
    "RETRY_STRIDE",
    "Advice",
    "AnchorSettings",
    "ArmResult",
    "Checkpoint",
    "Correction",
    "CorrectionRound",
    "CycleReport",
    "DatasetCard",
    "Evaluation",
    "Evidence",
    "Example",
    "Failure",
    "Hit",
    "Interval",
    "Lift",
    "LoraSettings",
    "Memory",
    "MemoryEdit",
    "MemoryKeys",
    "MemoryStatus",
    "Message",
    "Outcome",
    "Paired",
    "PhaseReport",
    "Provenance",
    "Rendered",
    "Reply",
    "Scope",
    "Span",
    "Standing",
    "Step",
    "Task",
    "TaskResult",
    "TokenTrace",
    "ToolCall",
    "ToolResult",
    "ToolSpec",
    "TrainJob",
    "TrainPlan",
    "TrainSettings",
    "Trajectory",
    "Usage",
    "Utility",
    "Value",
    "Verdict",
    "canonical_json",
    "content_id",
    "is_held_out",
    "lift_of",
    "mean_lift",
    "memory_id",
    "now",
    "pooled_prior",
    "sortable_id",
]
