"""What one check of the gate found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Check"]


class Check(NamedTuple):
    """What one check found."""

    flag: str
    """What the verdict calls it when it fails."""
    passed: bool
    """Whether the candidate may serve as far as this check goes."""
    sentence: str
    """What was seen, with its figures."""
    numbers: Mapping[str, float] = {}
    """The figures by name."""
