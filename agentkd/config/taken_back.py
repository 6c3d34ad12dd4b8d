"""The tables `[retire]` and `[revoke]`: what leaves the context, and what is taken back for good."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkd.schema import Value

__all__ = ["RetireSettings", "RevokeSettings"]


class RetireSettings(Value):
    """`[retire]`: which compiled memories leave the context of the student that holds them."""

    probes: int = Field(default=4, ge=0)
    """Requests that each memory is replayed on, out of those that it rests on or was recalled for; 0 retires
    nothing."""
    min_done: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of its probes that the student must do with the memory withheld."""
    max_lost: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of its probes that the student does with its memories and not without."""
    alpha: float = Field(default=0.05, ge=0.0, le=1.0)
    """Level at which memories that failed are held to harm the student together, and leave as a whole; 0 does
    not look."""


class RevokeSettings(Value):
    """`[revoke]`: what happens to the student that serves when something that it was made from is revoked."""

    serving: Literal["aside", "keep", "rollback"] = "aside"
    """`aside` lets it serve on until a clean one, which the next cycle trains, is promoted, but near what was
    revoked the base with its memories acts; `keep` lets it act there too, with counter-memories in its
    prompt; `rollback` lets the newest clean one that served before, or the base, serve at once."""
    max_rate: float = Field(default=0.1, ge=0.0, le=1.0)
    """A recompiled student may show the revoked behaviour on this share of its probes more than the base,
    and no more often than chance explains."""
    probes: int = Field(default=100, ge=1)
    """Most requests that the revoked behaviour is looked for on."""
