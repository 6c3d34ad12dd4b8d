"""Public fakes and conformance checks: for your tests and for those of plugins.

The fakes keep the promises of `agentkd.protocols`; the checks raise an AssertionError that says which
promise a component breaks and how.
"""

from __future__ import annotations

from agentkd.embedders.hashing import HashingEmbedder
from agentkd.models.scripted import ScriptedModel
from agentkd.testing.checks import (
    check_distiller,
    check_embedder,
    check_evaluator,
    check_index,
    check_model,
    check_objective,
    check_plugin,
    check_suite,
    check_synthesizer,
)
from agentkd.testing.clock import FixedClock
from agentkd.testing.kit import FakeKit
from agentkd.testing.secret import SeededSecret, seeded_secrets
from agentkd.testing.student import tiny_student
from agentkd.testing.suite import FakeSuite
from agentkd.testing.trajectory import example_correction, example_trajectory

__all__ = [
    "FakeKit",
    "FakeSuite",
    "FixedClock",
    "HashingEmbedder",
    "ScriptedModel",
    "SeededSecret",
    "check_distiller",
    "check_embedder",
    "check_evaluator",
    "check_index",
    "check_model",
    "check_objective",
    "check_plugin",
    "check_suite",
    "check_synthesizer",
    "example_correction",
    "example_trajectory",
    "seeded_secrets",
    "tiny_student",
]
