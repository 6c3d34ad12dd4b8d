"""The table `[synthesize]`: what a teacher writes for the student."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema import Value

__all__ = ["SynthesizeSettings"]


class SynthesizeSettings(Value):
    """`[synthesize]`: assess the student and let a teacher write what it lacks (`[roles] teacher`)."""

    synthesizers: tuple[str, ...] = ()
    """Components of kind `synthesizer`, which share the items; without any a cycle has no such phase."""
    split: str = ""
    """Split on which the student is assessed; empty takes `[cycle] split`. A held-out one is refused."""
    n: int | None = Field(default=100, ge=1)
    """Tasks that it is assessed on; None takes all."""
    max_items: int = Field(default=50, ge=1)
    """Items that one phase may write."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the teacher may take in one phase; checked before each call."""
    max_share: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Largest share of synthetic turns in a compilation: the rest is what happened. The newest are kept."""
    max_copy: float = Field(default=0.9, gt=0.0, le=1.0)
    """Weighted share of a written request's character 5-grams from which it counts as a copy of a training
    request or of an earlier item; among the items of one phase, the share of their words in common."""
