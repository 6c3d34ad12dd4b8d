"""Does an evaluator keep its promise? Figures that can be compared, whole tables, always the same."""

from __future__ import annotations

import math

from agentkd.protocols import Comparison, Evaluator, Kit
from agentkd.schema import Diagnosis
from agentkd.testing.checks.claim import claim

__all__ = ["check_evaluator"]


def check_evaluator(evaluator: Evaluator, comparison: Comparison, kit: Kit) -> Diagnosis:
    """Check that `evaluator` keeps `protocols.Evaluator` on a candidate, and return what it found."""
    found = evaluator.evaluate(comparison, kit)
    claim(isinstance(found, Diagnosis), f"`evaluate` must return a Diagnosis, not {type(found).__name__}")
    claim(
        found.evaluator == evaluator.name,
        f"the diagnosis names `{found.evaluator}`, the evaluator is `{evaluator.name}`",
    )
    odd = [name for name, value in found.metrics.items() if not math.isfinite(value)]
    claim(not odd, f"metrics {odd} are not finite")
    claim(found.metrics or found.notes, "it gave neither figures nor a sentence that says why")
    ragged = [row for row in found.rows if len(row) != len(found.columns)]
    claim(not ragged, f"a row has another length than the {len(found.columns)} headings: {ragged[:1]}")
    claim(not found.flags or found.notes, f"it flags {found.flags} and does not say why")
    claim(evaluator.evaluate(comparison, kit) == found, "the same candidate gave another diagnosis")
    return found
