"""When to compile and train."""

from __future__ import annotations

from agentkd import hookspecs
from agentkd.cycle.parts import Parts
from agentkd.schema import PhaseReport

__all__ = ["is_due"]


def is_due(parts: Parts, distilled: PhaseReport) -> bool:
    """Whether enough was learnt to train on; the hook `is_compile_due` may decide otherwise."""
    stored = distilled.output.get("stored", 0) + distilled.output.get("merged", 0)
    decided = parts.hooks.decide(
        hookspecs.is_compile_due,
        n_new_memories=stored,
        n_new_trajectories=parts.ledger.counts().get("trajectories", 0),
    )
    return stored >= parts.settings.cycle.min_new_memories if decided is None else decided
