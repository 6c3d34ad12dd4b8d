"""A figure with what is known of its error."""

from __future__ import annotations

from agentkd.schema.base import Value

__all__ = ["Interval"]


class Interval(Value):
    """A figure with its confidence interval."""

    value: float
    """Point estimate."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    level: float = 0.95
    """Confidence level."""
