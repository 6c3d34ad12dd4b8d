"""From memories and trajectories to training rows.

The compile step in one line: the teacher sees the recalled memories, the student does not. Rows never
come from held-out tasks, near duplicates never straddle train and dev, and every loss mask was checked
by decoding it.
"""

from __future__ import annotations

from agentkd.compiler.dataset import compile_dataset
from agentkd.compiler.difficulty import DifficultySelector, DifficultySettings, build_difficulty
from agentkd.compiler.divergence import DivergenceSelector, DivergenceSettings
from agentkd.compiler.eligibility import fault_of
from agentkd.compiler.exchange import FORMATS, export_lines
from agentkd.compiler.inputs import CompileInputs
from agentkd.compiler.lift_select import LiftSelector, LiftSettings, build_lift
from agentkd.compiler.render import describe_row
from agentkd.compiler.select import (
    CorrectionSelector,
    CorrectionSettings,
    SuccessOnlySelector,
    SupportSelector,
    SupportSettings,
    build_correction,
    build_success_only,
    build_support,
)
from agentkd.compiler.source import LedgerTraces, ListedTraces, Trace, Traces
from agentkd.compiler.split import choose_dev, group_tasks
from agentkd.compiler.write import read_card, read_examples

__all__ = [
    "CompileInputs",
    "CorrectionSelector",
    "CorrectionSettings",
    "DifficultySelector",
    "DifficultySettings",
    "DivergenceSelector",
    "DivergenceSettings",
    "FORMATS",
    "LedgerTraces",
    "LiftSelector",
    "LiftSettings",
    "ListedTraces",
    "SuccessOnlySelector",
    "SupportSelector",
    "SupportSettings",
    "Trace",
    "Traces",
    "build_correction",
    "build_difficulty",
    "build_lift",
    "build_success_only",
    "build_support",
    "choose_dev",
    "compile_dataset",
    "describe_row",
    "export_lines",
    "fault_of",
    "group_tasks",
    "read_card",
    "read_examples",
]
