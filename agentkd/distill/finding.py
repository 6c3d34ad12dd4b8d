"""What distilling gives besides memories: answers not understood, lessons refused, remarks with counts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkd.schema import Memory, Value

__all__ = ["DistillFailure", "Finding", "Notice", "RejectReason", "Rejection"]

RejectReason = Literal[
    "quote-too-short", "quote-not-found", "quote-of-memory", "quote-of-system", "repeats-memory",
    "claim-failed", "overruled", "instance-value", "not-tried", "no-gain",
]  # fmt: skip


class DistillFailure(Value):
    """An answer that could not be understood, even after a repair."""

    distiller: str
    """Name of the distiller."""
    trajectories: tuple[str, ...]
    """What the model was asked about."""
    error: str
    """Why the last answer was refused."""
    answer: str = ""
    """Beginning of the last answer; empty where the model could not be reached."""


class Rejection(Value):
    """A lesson that was understood and refused: its evidence did not hold."""

    distiller: str
    """Name of the distiller."""
    trajectories: tuple[str, ...]
    """What the lesson claimed to rest on."""
    lesson: str
    """What it said."""
    reason: RejectReason
    """Why it was refused, as a word that can be counted."""
    detail: str = ""
    """The same in a sentence."""


class Notice(Value):
    """A remark of a distiller on its own work, with figures for the report."""

    distiller: str
    """Name of the distiller."""
    text: str = ""
    """One sentence; empty where the counts say it all."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Figures by name, such as `hard pairs`."""


Finding = Memory | DistillFailure | Rejection | Notice
"""Whatever a distiller hands over."""
