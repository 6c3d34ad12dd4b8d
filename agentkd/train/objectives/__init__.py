"""The built-in objectives, offered as any plugin offers its own; torch is imported only by `forward`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, check_options
from agentkd.train.objectives import divergences as kd
from agentkd.train.objectives.alm import Alm, AlmSettings
from agentkd.train.objectives.hidden import HiddenMse, HiddenMseSettings, Relations, RelationsSettings
from agentkd.train.objectives.pairs import Dpo, DpoSettings, Redi, RediSettings
from agentkd.train.objectives.selective import Selective, SelectiveSettings
from agentkd.train.objectives.self_context import SelfContext, SelfContextSettings
from agentkd.train.objectives.sft import Sft, SftSettings
from agentkd.train.objectives.sinkhorn import Sinkhorn, SinkhornSettings
from agentkd.train.objectives.uld import Uld, UldSettings

__all__ = ["SelfContext", "SelfContextSettings", "Sft", "SftSettings", "components"]


@hookimpl
def components() -> Iterable[Component[Any]]:
    """Offer every built-in loss."""
    yield Component("objective", "sft", "Cross-entropy on the target's tokens.", _sft, SftSettings)
    yield Component(
        "objective",
        "self-context",
        "Forward KL from the base model that sees the memories to the student that does not.",
        _self_context,
        SelfContextSettings,
    )
    yield from _divergences()
    yield from _between_models()
    yield Component(
        "objective", "dpo", "Logistic loss on pairs, against a reference (DPO).",
        lambda s, kit: Dpo(s), DpoSettings,
    )  # fmt: skip
    yield Component(
        "objective", "redi", "Chosen completions up, rejected ones down a little less (REDI, stage 2).",
        lambda s, kit: Redi(s), RediSettings,
    )  # fmt: skip
    yield Component(
        "objective", "selective", "Another loss on the tokens that can still be learnt (AdaSPEC).",
        _selective, SelectiveSettings,
    )  # fmt: skip


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
    yield Component(
        "objective", "top-k-kl", "`forward-kl` by its other name: top k and a bucket for the tail.",
        lambda s, kit: kd.Divergence("top-k-kl", kd.forward_kl, s.top_k), kd.TopKSettings,
    )  # fmt: skip
    yield Component("objective", "jsd", "Generalised Jensen-Shannon divergence (GKD).", _jsd, kd.JsdSettings)
    yield Component("objective", "skew-kl", "Skew KL, either way (DistiLLM).", _skew_kl, kd.SkewSettings)
    yield Component(
        "objective", "taid", "Forward KL from a target that moves from student to teacher (TAID).",
        lambda s, kit: kd.Taid(s), kd.TaidSettings,
    )  # fmt: skip


def _between_models() -> Iterable[Component[Any]]:
    """Offer the losses between two models that need not share a vocabulary or a width."""
    yield Component(
        "objective", "alm", "Give stretches of text the teacher's probability (any tokenizer).",
        lambda s, kit: Alm(s), AlmSettings,
    )  # fmt: skip
    yield Component(
        "objective", "uld", "Match the teacher's sorted probabilities (any tokenizer).",
        lambda s, kit: Uld(s), UldSettings,
    )  # fmt: skip
    yield Component(
        "objective", "sinkhorn", "Optimal transport between the positions of a row (SinKD).",
        lambda s, kit: Sinkhorn(s), SinkhornSettings,
    )  # fmt: skip
    yield Component(
        "objective", "hidden-mse", "Match a local teacher's states through a linear map.",
        lambda s, kit: HiddenMse(s), HiddenMseSettings,
    )  # fmt: skip
    yield Component(
        "objective", "minilm-relations", "Match how a row's states relate to each other.",
        lambda s, kit: Relations(s), RelationsSettings,
    )  # fmt: skip


def _selective(settings: SelectiveSettings, kit: Any) -> Selective:
    """Wrap a built-in loss at once; one of a plugin is given by the trainer, which knows them all."""
    selective = Selective(settings)
    inner = next((c for c in components() if c.name == settings.objective), None)
    if inner is None or inner.name == selective.name:
        return selective
    return selective.wrap(inner.build(check_options(inner, settings.options), kit))


def _jsd(settings: kd.JsdSettings, kit: Any) -> kd.Divergence:
    return kd.Divergence("jsd", partial(kd.generalised_jsd, beta=settings.beta), settings.top_k)


def _skew_kl(settings: kd.SkewSettings, kit: Any) -> kd.Divergence:
    formula = kd.skew_reverse_kl if settings.reverse else kd.skew_kl
    return kd.Divergence("skew-kl", partial(formula, alpha=settings.alpha), settings.top_k)


def _sft(settings: SftSettings, kit: Any) -> Sft:
    return Sft(settings)


def _self_context(settings: SelfContextSettings, kit: Any) -> SelfContext:
    return SelfContext(settings)
