"""Calibration: does a student that is sure also do its tasks? Before and after the training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import Field

from agentkd.errors import DataError
from agentkd.evaluate.said import Said, first_turns
from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Value

if TYPE_CHECKING:
    from agentkd.hf import ReplyScorer

__all__ = ["Calibration", "CalibrationSettings", "expected_calibration_error"]


class CalibrationSettings(Value):
    """Options of the evaluator `calibration`."""

    n: int = Field(default=60, ge=1)
    """Most tasks whose replies are scored, per arm."""
    bins: int = Field(default=10, ge=2)
    """Bins of equal width between 0 and 1."""
    max_rise: float = Field(default=1.0, ge=0.0)
    """Largest rise of the error that is not flagged; 1 flags none."""


def expected_calibration_error(pairs: Iterable[tuple[float, bool]], bins: int = 10) -> float:
    """Return the expected calibration error of (confidence in [0, 1], whether it was right).

    That is the mean over bins of equal width of |share right - mean confidence|, weighted by their counts.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, equation 3.
    """
    held: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in pairs:
        held.setdefault(min(int(confidence * bins), bins - 1), []).append((confidence, right))
    n = sum(map(len, held.values()))
    gaps = (len(one) * abs(fmean(r for _, r in one) - fmean(c for c, _ in one)) for one in held.values())
    return sum(gaps) / n if n else 0.0


class Calibration:
    """Expected calibration error of replies on held-out tasks, before and after the training."""

    name = "calibration"

    def __init__(self, settings: CalibrationSettings | None = None) -> None:
        self._settings = settings or CalibrationSettings()

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Score the replies of the candidate, and of what serves, under the model that gave them.

        A reply's confidence is the geometric mean of its tokens' probabilities, without the grammar.
        """
        from agentkd.hf import ReplyScorer

        old = "base" if comparison.serving == "base" else "serving"
        said = {arm: first_turns(comparison.trajectories(arm)) for arm in (old, "student")}
        if not all(said.values()):
            return Diagnosis(evaluator=self.name, notes=("There are no replies of both arms to score.",))
        scorer = ReplyScorer(comparison.base, {old: comparison.before, "student": comparison.after})
        pairs = {arm: self._confidences(scorer, arm, turns) for arm, turns in said.items()}
        error = {arm: expected_calibration_error(found, self._settings.bins) for arm, found in pairs.items()}
        rise = error["student"] - error[old]
        return Diagnosis(
            evaluator=self.name,
            metrics={
                "ece_before": error[old],
                "ece_after": error["student"],
                "n": float(len(pairs["student"])),
            },
            flags=("overconfident",) if rise > self._settings.max_rise else (),
            notes=(
                f"Expected calibration error of replies: {error[old]:.3f} of `{old}`, {error['student']:.3f} "
                f"of the candidate.",
            ),
            columns=("arm", "replies", "mean confidence", "share done", "ECE"),
            rows=tuple(_row(arm, found, error[arm]) for arm, found in pairs.items()),
        )

    def _confidences(
        self, scorer: ReplyScorer, arm: str, turns: Mapping[str, Said]
    ) -> list[tuple[float, bool]]:
        found = []
        for task in sorted(turns)[: self._settings.n]:
            said = turns[task]
            try:
                scored = scorer.score(said.prompt, said.reply, arm)
            except DataError:
                continue  # a reply that the template cannot take
            if scored.log_probs:
                found.append((math.exp(fmean(scored.log_probs)), said.success))
        return found


def _row(arm: str, pairs: Sequence[tuple[float, bool]], error: float) -> tuple[str, ...]:
    if not pairs:
        return (arm, "0", "", "", "")
    sure, right = fmean(c for c, _ in pairs), fmean(r for _, r in pairs)
    return (arm, str(len(pairs)), f"{sure:.3f}", f"{right:.3f}", f"{error:.3f}")
