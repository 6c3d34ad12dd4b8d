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
    )
