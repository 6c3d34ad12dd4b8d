"""The numeric contract of objectives: every registered one keeps it, and every way to break it is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from agentkd import builtins, testing
from agentkd.plugins import PluginHost, Registry
from agentkd.testing import FakeKit


def registry() -> Registry:
    host = PluginHost(auto=False)
    host.add(builtins, "agentkd.builtins")
    return host.registry


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dpo": [{"reference": "none", "length_normalised": True, "label_smoothing": 0.1}],
    "jsd": [{"beta": 0.1}],
    "redi": [{"alpha": 0.0}],
    "selective": [{"objective": "sft"}, {"objective": "jsd", "options": {"beta": 0.2}}],
    "self-context": [{"policy": "on"}],
    "sft": [{"label_smoothing": 0.2}],
    "skew-kl": [{"reverse": True}],
}
"""Options beside the defaults."""
CASES = [
    (name, options) for name in registry().names("objective") for options in ({}, *OPTIONS.get(name, ()))
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{len(o)}" for name, o in CASES])
def test_every_registered_objective_keeps_the_contract(name: str, options: dict[str, Any]) -> None:
    for seed in (0, 1):
        testing.check_objective(registry().build("objective", name, options, FakeKit()), seed=seed)


def test_the_divergences_declare_themselves() -> None:
    known = registry()
    declared = {n for n in known.names("objective") if _build(known, n, "is_divergence")}
    assert {"forward-kl", "reverse-kl", "jsd", "skew-kl", "taid", "self-context", "alm", "uld"} <= declared
    moving = {n for n in known.names("objective") if _build(known, n, "has_moving_target")}
    assert moving == {"taid", "sinkhorn"}


def _build(known: Registry, name: str, attribute: str) -> bool:
    return bool(getattr(known.build("objective", name, {}, FakeKit()), attribute, False))


class Kl:
    """Forward KL over the teacher's top tokens and a rest, with one fault."""

    name = "kl"
    requires: frozenset[str] = frozenset({"teacher-top-k"})
    is_divergence = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.calls = 0

    def prepare(self, n_steps: int) -> None: ...

    def forward(self, context: Any) -> Mapping[str, torch.Tensor]:
        self.calls += 1
        log_p, log_q = context.teacher_top_log_probs, context.logits.log_softmax(-1)
        top = log_q.gather(1, context.teacher_top_ids)
        if self.fault == "no tail":
            top, log_p = top.log_softmax(-1), log_p.log_softmax(-1)
        losses = (log_p.exp() * (log_p - top)).sum(-1)
        if self.fault != "no tail":
            rest_p = (1 - log_p.exp().sum(-1)).clamp_min(1e-30)
            rest_q = (1 - top.exp().sum(-1)).clamp_min(1e-30)
            losses = losses + rest_p * (rest_p / rest_q).log()
        if self.fault == "shifted":
            losses = losses + 0.1
        if self.fault == "gradient":
            losses = losses + (losses.detach() * losses - losses.detach() * losses.detach())
        if self.fault == "order":
            losses = losses / self.calls
        weights = context.weights.square() if self.fault == "squared" else context.weights
        total = (losses * weights).sum()
        if self.fault == "neighbours":
            total = total + 0.1 * (losses[1:] * losses[:-1] * weights[1:] * weights[:-1]).sum()
        if self.fault == "leak":
            total = total + 0.01 * losses.detach().sum()
        return {"kl": total / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("no tail", "outside the teacher's top"),
        ("shifted", "not 0, where student and teacher agree"),
        ("gradient", "finite differences say"),
        ("order", "chunks give"),
        ("squared", "not a weighted mean"),
        ("neighbours", "chunks give|not a weighted mean"),
        ("leak", "depends on positions of weight 0"),
    ],
)
def test_a_token_loss_is_told_what_is_wrong(fault: str, pattern: str) -> None:
    testing.check_objective(Kl())
    with pytest.raises(AssertionError, match=pattern):
        testing.check_objective(Kl(fault))


class Ratio:
    """A hinge-free preference loss on spans, with one fault."""

    name = "ratio"

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.seen = 0
        self.requires: frozenset[str] = frozenset({"rejected", "reference"})

    def prepare(self, n_steps: int) -> None: ...

    def spans(self, log_q: torch.Tensor, context: Any) -> Mapping[str, torch.Tensor]:
        self.seen += len(log_q)
        reference = 0 if self.fault == "blind" else context.log_q_reference
        sign = torch.where(context.is_rejected, 1.0, -1.0).to(log_q.dtype)
        if self.fault == "upside down":
            sign = -sign
        losses = torch.nn.functional.softplus(sign * (log_q - reference))
        if self.fault == "detached":
            losses = losses * log_q.detach()
        weights = torch.ones_like(context.weights) if self.fault == "weights" else context.weights
        normaliser = weights.sum() if self.fault == "pack" else context.normaliser
        loss = (losses * weights).sum() / normaliser
        return {"ratio": loss + self.seen if self.fault == "state" else loss}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("blind", "ignores the reference"),
        ("upside down", "pushed down"),
        ("detached", "finite differences say"),
        ("weights", "spans of weight 0 get a gradient"),
        ("pack", "not a weighted mean"),
        ("state", "not a weighted mean|changed after"),
    ],
)
def test_a_span_loss_is_told_what_is_wrong(fault: str, pattern: str) -> None:
    testing.check_objective(Ratio())
    with pytest.raises(AssertionError, match=pattern):
        testing.check_objective(Ratio(fault))


def test_needs_that_no_trainer_knows_are_refused() -> None:
    ratio = Ratio()
    ratio.requires = frozenset({"oracle"})
    with pytest.raises(AssertionError, match="oracle"):
        testing.check_objective(ratio)


def test_a_state_that_is_lost_is_noticed() -> None:
    class Forgetful(Kl):
        def forward(self, context: Any) -> Mapping[str, torch.Tensor]:
            terms = super().forward(context)
            return {"kl": terms["kl"] * (1.0 if context.step < 3 else self.calls)}

    with pytest.raises(AssertionError, match="changed after"):
        testing.check_objective(Forgetful())
