"""The selector `difficulty`: rows weigh by how often the present student succeeds at such tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from agentkd.protocols import Kit
from agentkd.schema import Example, Value

__all__ = ["DifficultySelector", "DifficultySettings", "build_difficulty"]


class DifficultySettings(Value):
    """`[selector.difficulty]`."""

    prefer: Literal["hard", "middle", "easy"] = "hard"
    """Tasks that weigh most: those where the student fails, sometimes succeeds, or succeeds."""
    min_runs: int = Field(default=1, ge=1)
    """Graded runs of the student on a task's group; with fewer nothing is known and rows weigh 1."""
    drop_below: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Rows that would weigh less are left out."""
    max_weight: float = Field(default=2.0, ge=1.0)
    """Weight of the tasks that are preferred most; those preferred least weigh near 0."""


class DifficultySelector:
    """Weigh rows by the share of the serving student's graded runs that succeeded on the task's group.

    The share is the posterior mean (wins + 1/2) / (runs + 1), so that one run is no certainty.
    """

    name = "difficulty"

    def __init__(self, settings: DifficultySettings | None = None) -> None:
        self.settings = settings or DifficultySettings()

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return one weight per row; 1 where the student was never graded on such a task."""
        return [self._weight(*example.extras.get("skill", (0, 0))) for example in examples]

    def _weight(self, n: int, wins: int) -> float:
        if n < self.settings.min_runs:
            return 1.0
        share = (wins + 0.5) / (n + 1)
        liking = {"hard": 1.0 - share, "middle": 4.0 * share * (1.0 - share), "easy": share}
        weight = round(self.settings.max_weight * liking[self.settings.prefer], 6)
        return weight if weight >= self.settings.drop_below else 0.0


def build_difficulty(settings: DifficultySettings, kit: Kit) -> DifficultySelector:
    """Build the component `difficulty`."""
    return DifficultySelector(settings)
