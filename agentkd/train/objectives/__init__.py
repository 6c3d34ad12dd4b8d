"""The built-in objectives, offered as any plugin offers its own; torch is imported only by `forward`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, NoSettings
from agentkd.train.objectives import divergences as kd
from agentkd.train.objectives.self_context import SelfContext, SelfContextSettings
from agentkd.train.objectives.sft import Sft

__all__ = ["SelfContext", "SelfContextSettings", "Sft", "components"]


@hookimpl
def components() -> Iterable[Component[Any]]:
    """Offer every built-in loss."""
    yield Component("objective", "sft", "Cross-entropy on the target's tokens.", _sft, NoSettings)
    yield Component(
        "objective",
        "self-context",
        "Forward KL from the base model that sees the memories to the student that does not.",
        _self_context,
        SelfContextSettings,
    )
    yield from _divergences()


def _divergences() -> Iterable[Component[Any]]:
    """Offer the divergences from the cached top tokens of the teacher, which sees the memories."""
    yield Component(
        "objective", "forward-kl", "KL(teacher || student): cover what the teacher does.",
        lambda s, kit: kd.Divergence("forward-kl", kd.forward_kl, s.top_k), kd.TopKSettings,
    )  # fmt: skip
    yield Component(
        "objective", "reverse-kl", "KL(student || teacher): do nothing that the teacher would not.",
        lambda s, kit: kd.Divergence("reverse-kl", kd.reverse_kl, s.top_k), kd.TopKSettings,
    )  # fmt: skip
    yield Component("objective", "jsd", "Generalised Jensen-Shannon divergence (GKD).", _jsd, kd.JsdSettings)
    yield Component("objective", "skew-kl", "Skew KL, either way (DistiLLM).", _skew_kl, kd.SkewSettings)
    yield Component(
        "objective", "taid", "Forward KL from a target that moves from student to teacher (TAID).",
        lambda s, kit: kd.Taid(s), kd.TaidSettings,
    )  # fmt: skip


def _jsd(settings: kd.JsdSettings, kit: Any) -> kd.Divergence:
    return kd.Divergence("jsd", partial(kd.generalised_jsd, beta=settings.beta), settings.top_k)


def _skew_kl(settings: kd.SkewSettings, kit: Any) -> kd.Divergence:
    formula = kd.skew_reverse_kl if settings.reverse else kd.skew_kl
    return kd.Divergence("skew-kl", partial(formula, alpha=settings.alpha), settings.top_k)


def _sft(settings: NoSettings, kit: Any) -> Sft:
    return Sft()


def _self_context(settings: SelfContextSettings, kit: Any) -> SelfContext:
    return SelfContext(settings)
