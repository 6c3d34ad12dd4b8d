"""The Berkeley Function Calling data as suite `bfcl-live`; importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd_bfcl.settings import BfclLiveSettings

if TYPE_CHECKING:
    from agentkd.protocols import Kit
    from agentkd_bfcl.suite import BfclLive

__all__ = ["BfclLiveSettings", "build_suite", "components"]

__version__ = "0.1.0"

SUGGESTED = {
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief", "recall": "start"},
    "memory": {"k": 4, "min_score": 0.2},
    "distill": {"distillers": ["case"]},
    "compile": {"dev_share": 0.02},
    "train": {"epochs": 5, "learning_rate": 0.001, "tokens_per_step": 512, "anchor": {"weight": 1.0}},
    "gate": {"against": ["base", "base + memory", "nearest neighbour copied"]},
}
"""One call ends a task, a grammar spells it, and the rows are short: many small steps, tuned on `dev`.
Without anchors such a student answers every chat with a call."""


def build_suite(settings: BfclLiveSettings, kit: Kit) -> BfclLive:
    """Fetch the pinned data wheel and lay out the suite."""
    from agentkd_bfcl.suite import BfclLive

    return BfclLive(kit.fetch(settings.source, sha256=settings.sha256), settings)


@hookimpl
def components() -> Iterator[Component[Any]]:
    """Offer the suite."""
    yield Component(
        "suite",
        "bfcl-live",
        "Requests that call for one tool out of 26 (Berkeley Function Calling Leaderboard, live).",
        build_suite,
        BfclLiveSettings,
        suggests=SUGGESTED,
    )
