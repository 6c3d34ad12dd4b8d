"""Synthesis: a teacher reads how the student does and writes what it lacks; every item is checked."""

from __future__ import annotations

from agentkd.synthesize.ask import AskSettings, Question, ask_all
from agentkd.synthesize.check import fault_of
from agentkd.synthesize.retell import (
    ParaphraseSettings,
    ParaphraseSynthesizer,
    RationaleSettings,
    RationaleSynthesizer,
    build_paraphrase,
    build_rationale,
)
from agentkd.synthesize.target import accepted_of, student_text
from agentkd.synthesize.write import (
    RandomSynthesizer,
    TailoredSynthesizer,
    WriteSettings,
    build_random,
    build_tailored,
)

__all__ = [
    "AskSettings",
    "ParaphraseSettings",
    "ParaphraseSynthesizer",
    "Question",
    "RandomSynthesizer",
    "RationaleSettings",
    "RationaleSynthesizer",
    "TailoredSynthesizer",
    "WriteSettings",
    "accepted_of",
    "ask_all",
    "build_paraphrase",
    "build_random",
    "build_rationale",
    "build_tailored",
    "fault_of",
    "student_text",
]
