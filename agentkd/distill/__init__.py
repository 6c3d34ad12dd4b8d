"""From trajectories and corrections to candidate memories.

`case`, `correction` and `tool-notes` need no model; `success`, `failure`, `contrast` and `strategy` ask the
model of the role `distiller`. Every lesson cites the words that it rests on. Nothing is learnt from
held-out tasks, nothing from recalled memories.
"""

from __future__ import annotations

from agentkd.distill.candidate import candidate
from agentkd.distill.case import CaseDistiller, CaseSettings, build_case
from agentkd.distill.correction import CorrectionDistiller, CorrectionSettings, build_correction
from agentkd.distill.evidence import find_quote, words_of
from agentkd.distill.finding import DistillFailure, Finding, Notice, Rejection
from agentkd.distill.gather import Distilled, distill_all, distill_report
from agentkd.distill.lesson import (
    ContrastSettings,
    LessonDistiller,
    LessonSettings,
    build_contrast,
    build_failure,
    build_success,
)
from agentkd.distill.pairing import hard_pairs, soft_pairs
from agentkd.distill.replay import Replayed, replay_claim
from agentkd.distill.source import generalise, memory_scope, state_text, transcript
from agentkd.distill.strategy import StrategyDistiller, StrategySettings, build_strategy
from agentkd.distill.tool_notes import ToolNotesDistiller, ToolNotesSettings, build_tool_notes

__all__ = [
    "CaseDistiller",
    "CaseSettings",
    "ContrastSettings",
    "CorrectionDistiller",
    "CorrectionSettings",
    "DistillFailure",
    "Distilled",
    "Finding",
    "LessonDistiller",
    "LessonSettings",
    "Notice",
    "Rejection",
    "Replayed",
    "StrategyDistiller",
    "StrategySettings",
    "ToolNotesDistiller",
    "ToolNotesSettings",
    "build_case",
    "build_contrast",
    "build_correction",
    "build_failure",
    "build_strategy",
    "build_success",
    "build_tool_notes",
    "candidate",
    "distill_all",
    "distill_report",
    "find_quote",
    "generalise",
    "hard_pairs",
    "memory_scope",
    "replay_claim",
    "soft_pairs",
    "state_text",
    "transcript",
    "words_of",
]
