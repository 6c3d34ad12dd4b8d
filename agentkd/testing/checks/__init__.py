"""Conformance checks: one per kind of component, each an AssertionError per broken promise."""

from __future__ import annotations

from agentkd.testing.checks.distiller import check_distiller
from agentkd.testing.checks.embedder import check_embedder
from agentkd.testing.checks.evaluator import check_evaluator
from agentkd.testing.checks.index import check_index
from agentkd.testing.checks.model import check_model
from agentkd.testing.checks.objective import check_objective
from agentkd.testing.checks.plugin import check_plugin
from agentkd.testing.checks.suite import check_suite
from agentkd.testing.checks.synthesizer import check_synthesizer

__all__ = [
    "check_distiller",
    "check_embedder",
    "check_evaluator",
    "check_index",
    "check_model",
    "check_objective",
    "check_plugin",
    "check_suite",
    "check_synthesizer",
]
