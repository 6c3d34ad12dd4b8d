"""What a cycle says about the worth of its memories: the lift of recall, and what refining took out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from agentkd.cycle.parts import Parts

if TYPE_CHECKING:
    from agentkd.memory import Edit

__all__ = ["edits_said", "lift_said"]


def lift_said(parts: Parts, app: str) -> tuple[str, dict[str, Any]]:
    """Return what recall is worth to a suite's tasks, as the end of a sentence and as figures.

    Both are empty before trials have measured it.
    """
    scope = parts.settings.memory.scope.of_suite(app)
    counts = parts.ledger.trials.of(scope, parts.settings.memory.trial_window)
    if not (counts.n_shown and counts.n_withheld):
        return "", {}
    lift = counts.lift(parts.settings.memory.trial_level)
    is_off = counts.off(parts.settings.memory) is not None
    said = f"; lift of recall {lift.text()}" + (": it is switched off, but on trials" if is_off else "")
    return said, {"lift": lift.model_dump(mode="json"), "is_recall_off": is_off}


def edits_said(edits: Iterable[Edit]) -> tuple[str, dict[str, Any]]:
    """Return what refining changed, as a sentence and as counts by new status; refused edits apart."""
    proposed = list(edits)
    made = [edit for edit in proposed if not edit.refusal]
    refusals = Counter(edit.refusal for edit in proposed if edit.refusal)
    counts = Counter("replaced" if edit.replacement else edit.status for edit in made)
    parts = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    not_made = "".join(f"; {n} not made: {why}" for why, n in sorted(refusals.items()))
    figures = {"edits": len(made), **counts, **({"refused": refusals.total()} if refusals else {})}
    return f"{len(made)} edits" + (f": {parts}" if parts else "") + not_made, figures
