"""The built-in objectives, offered as any plugin offers its own; torch is imported only by `forward`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, NoSettings
from agentkd.train.objectives.self_context import SelfContext, SelfContextSettings
from agentkd.train.objectives.sft import Sft

__all__ = ["SelfContext", "SelfContextSettings", "Sft", "components"]


@hookimpl
def components() -> Iterable[Component[Any]]:
    """Offer `sft` and `self-context`."""
    yield Component("objective", "sft", "Cross-entropy on the target's tokens.", _sft, NoSettings)
    yield Component(
        "objective",
        "self-context",
        "Forward KL from the base model that sees the memories to the student that does not.",
        _self_context,
        SelfContextSettings,
    )


def _sft(settings: NoSettings, kit: Any) -> Sft:
    return Sft()


def _self_context(settings: SelfContextSettings, kit: Any) -> SelfContext:
    return SelfContext(settings)
