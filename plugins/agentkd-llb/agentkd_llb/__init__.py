"""LifelongAgentBench's database tasks as suites `llb-db` and `llb-db-steps`; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component
from agentkd_llb.settings import LlbDbSettings

if TYPE_CHECKING:
    from agentkd.protocols import Kit
    from agentkd_llb.suite import LlbDb

__all__ = ["LlbDbSettings", "build_steps_suite", "build_suite", "components"]

__version__ = "0.1.0"

_COMMON = {
    "memory": {"k": 3, "min_score": 0.2},
    "models": {"max_new_tokens": 160},
    "distill": {"distillers": ["case"]},
    "train": {"epochs": 5, "learning_rate": 0.001, "tokens_per_step": 1024, "anchor": {"weight": 1.0}},
}

SUGGESTED = {
    **_COMMON,
    "agent": {"max_steps": 1, "force_tool_call": True, "tool_detail": "brief", "recall": "start"},
    "gate": {"against": ["base", "base + memory", "nearest neighbour copied"]},
}
"""One statement ends a task; a neighbour's case shows how such a request is put into SQL."""

SUGGESTED_STEPS = {
    **_COMMON,
    "agent": {"max_steps": 8, "force_tool_call": True, "tool_detail": "full", "recall": "start"},
    "distill": {"distillers": ["case", "success", "failure", "correction", "tool-notes"]},
}
"""The schema has to be looked up first, and errors on the way teach something."""


def build_suite(settings: LlbDbSettings, kit: Kit) -> LlbDb:
    """Read the tasks and lay out the suite of one step."""
    from agentkd_llb.data import find_folder
    from agentkd_llb.suite import LlbDb

    return LlbDb(find_folder(settings.path), settings)


def build_steps_suite(settings: LlbDbSettings, kit: Kit) -> LlbDb:
    """Read the tasks and lay out the suite of many steps."""
    from agentkd_llb.data import find_folder
    from agentkd_llb.suite import LlbDbSteps

    return LlbDbSteps(find_folder(settings.path), settings)


@hookimpl
def components() -> Iterator[Component[Any]]:
    """Offer both suites."""
    yield Component(
        "suite",
        "llb-db",
        "Requests put into one SQL statement on a shown table (LifelongAgentBench, SQLite).",
        build_suite,
        LlbDbSettings,
        suggests=SUGGESTED,
    )
    yield Component(
        "suite",
        "llb-db-steps",
        "The same requests with the table hidden: look it up, run SQL, then answer.",
        build_steps_suite,
        LlbDbSettings,
        suggests=SUGGESTED_STEPS,
    )
