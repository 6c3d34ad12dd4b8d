"""One line of `agentkd doctor`."""

from __future__ import annotations

from typing import Literal

from agentkd.schema import Value

__all__ = ["Check"]


class Check(Value):
    """What was looked at, and how it is."""

    area: Literal["machine", "workspace", "proof", "repair"]
    """This machine, the workspace at hand, the proof on a scratch workspace, or a repair."""
    name: str
    """What was looked at."""
    status: Literal["PASS", "FAIL", "MISSING"]
    """MISSING is something optional that is not here; only FAIL is an error."""
    detail: str = ""
    """What was found, with figures."""
    hint: str = ""
    """What to do about it."""
    seconds: float = 0.0
    """Wall time of the check."""
