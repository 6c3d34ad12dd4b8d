"""The table `[trust]`: whose words may become memories and weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkd.schema import Value

__all__ = ["TrustSettings"]


class TrustSettings(Value):
    """`[trust]`: whose words may become memories and weights, and what keeps the others out."""

    gate: bool = True
    """Whether memories that rest on untrusted or tainted words wait in quarantine, and their runs stay out of
    datasets; off, sources are only recorded."""
    users: Literal["untrusted", "trusted"] = "untrusted"
    """What the requests to an agent outside any suite are; `trusted` where all its users are operators."""
    tools: tuple[str, ...] = ()
    """Names of tools whose output is trusted, besides those that say so themselves and those of suites."""
    outside_tools: tuple[str, ...] = ()
    """Names of tools whose output is untrusted whoever offers them, such as a suite's web search."""
    outside_suites: tuple[str, ...] = ()
    """Suites whose requests and tools bring in text from outside."""
    imports: Literal["admitted", "quarantined"] = "admitted"
    """What the memories of an imported file are: admitted by the person who names it, or waiting."""
    successes: int = Field(default=2, ge=1)
    """Independent verified successes that let a waiting memory out: other tasks, no source in common."""
    max_support: int = Field(default=1, ge=1)
    """Runs of one untrusted source (a user, a tool) that count as support."""
    max_share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Largest share of a recall that memories of one untrusted source take, and at least one."""
