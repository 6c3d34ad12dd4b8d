"""Which of several students acts on a request, and why."""

from __future__ import annotations

from pydantic import Field

from agentkd.schema.base import Value

__all__ = ["Route"]


class Route(Value):
    """What a router chose for a request; kept in the trajectory's `extras["route"]`."""

    checkpoint: str = "base"
    """Student that acts; `base` for the base with its memories, where no student's rows are near enough."""
    score: float = 0.0
    """Cosine of the request and the nearest of its keys; of the nearest student's where none was chosen."""
    threshold: float = 0.0
    """What it had to reach; where a student stands aside also the cosine of the nearest request besides."""
    key: str = ""
    """That key: a request that the student was trained on, or a key of a memory under its rows; where a
    student stands aside the id of the revoked memory."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Cosine of the nearest key of every student that was asked."""
    aside: str = ""
    """Tainted student that stands aside here; empty otherwise."""
