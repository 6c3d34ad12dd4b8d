"""The selector `lift`: rows weigh by what trials say about the memories that they rest on."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from agentkd.protocols import Kit
from agentkd.schema import Example, Value

__all__ = ["LiftSelector", "LiftSettings", "build_lift"]


class LiftSettings(Value):
    """`[selector.lift]`."""

    max_weight: float = Field(default=2.0, ge=1.0)
    """Weight of a row whose memories certainly help."""
    drop_above: float = Field(default=0.95, gt=0.5, le=1.0)
    """Rows are left out whose memories do harm with at least this probability."""


class LiftSelector:
    """Weigh rows by the posterior of their memories' lift; what no trial has measured weighs 1.

    The weight is twice the probability that the memories help, averaged over those under the row: 1 where
    trials say nothing either way, less where they doubt, and nothing where they are certain of harm.
    """

    name = "lift"

    def __init__(self, settings: LiftSettings | None = None) -> None:
        self.settings = settings or LiftSettings()

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return one weight per row."""
        return [self._weight(example.extras.get("p_negative", ())) for example in examples]

    def _weight(self, p_negative: Sequence[float]) -> float:
        if not p_negative:
            return 1.0
        harm = sum(p_negative) / len(p_negative)
        if harm >= self.settings.drop_above:
            return 0.0
        return min(self.settings.max_weight, round(2.0 * (1.0 - harm), 6))


def build_lift(settings: LiftSettings, kit: Kit) -> LiftSelector:
    """Build the component `lift`."""
    return LiftSelector(settings)
