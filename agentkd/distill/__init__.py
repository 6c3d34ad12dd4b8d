"""From trajectories and corrections to candidate memories.

`case` and `correction` need no model; `success`, `failure` and `contrast` ask the model of the role
`distiller`. Nothing learnt from held-out tasks, nothing learnt from recalled memories.
"""

from __future__ import annotations

from agentkd.distill.candidate import candidate
from agentkd.distill.case import (
    CaseDistiller,
    CaseSettings,
    CorrectionDistiller,
    build_case,
    build_correction,
)
from agentkd.distill.gather import Distilled, distill_all, distill_report
from agentkd.distill.lesson import (
    DistillFailure,
    LessonDistiller,
    LessonSettings,
    build_contrast,
    build_failure,
    build_success,
)
from agentkd.distill.source import generalise, memory_scope, state_text, transcript

__all__ = [
    "CaseDistiller",
    "CaseSettings",
    "CorrectionDistiller",
    "DistillFailure",
    "Distilled",
    "LessonDistiller",
    "LessonSettings",
    "build_case",
    "build_contrast",
    "build_correction",
    "build_failure",
    "build_success",
    "candidate",
    "distill_all",
    "distill_report",
    "generalise",
    "memory_scope",
    "state_text",
    "transcript",
]
