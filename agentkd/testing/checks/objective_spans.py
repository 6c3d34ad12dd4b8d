"""Does a loss on spans keep its promise? Exact gradients, pairs the right way round, packs that add up."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentkd.testing.checks.claim import claim
from agentkd.testing.checks.objective_inputs import SpanSet, random_spans
from agentkd.testing.checks.objective_terms import check_slope, check_state, total

if TYPE_CHECKING:
    import torch

__all__ = ["check_spans"]


def check_spans(fresh: Any, seed: int) -> None:
    """Check that an objective keeps `protocols.SpanObjective`, on random spans in float64."""
    log_q, spans = random_spans(frozenset(fresh.requires), seed)
    _check_weights(fresh, log_q, spans)
    _check_packs(fresh, log_q, spans)
    if not getattr(fresh, "has_moving_target", False):
        check_slope(lambda leaves: _loss(fresh, leaves[0], spans), [log_q])
    if "rejected" in fresh.requires:
        _check_direction(fresh, log_q, spans)
    if spans.log_q_reference is not None:
        moved = _loss(fresh, log_q, replace(spans, log_q_reference=spans.log_q_reference * 1.5))
        claim(moved.item() != _loss(fresh, log_q, spans).item(), "the loss ignores the reference it asks for")
    if getattr(fresh, "is_divergence", False):
        _check_equality(fresh, log_q, spans)
    used = _prepared(fresh)
    for step in range(3):
        other, others = random_spans(frozenset(fresh.requires), seed + step)
        total(used.spans(other, replace(others, step=step)))
    check_state(used, fresh, lambda one: total(one.spans(log_q, replace(spans, step=3))))


def _prepared(fresh: Any) -> Any:
    objective = copy.deepcopy(fresh)
    objective.prepare(10)
    return objective


def _loss(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> torch.Tensor:
    return total(_prepared(fresh).spans(log_q, spans))


def _gradient(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> torch.Tensor:
    import torch

    loss = _loss(fresh, log_q, spans)
    claim(loss.requires_grad, "the loss does not depend on the student's log-probabilities")
    return torch.autograd.grad(loss, log_q)[0]


def _check_weights(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> None:
    import torch

    loss, gradient = _loss(fresh, log_q, spans), _gradient(fresh, log_q, spans)
    is_weighed = spans.weights > 0
    claim(torch.isfinite(gradient).all(), "the gradient holds NaN or infinity")
    claim(gradient[is_weighed].abs().sum() > 0, "the loss does not depend on the student's log-probabilities")
    claim(gradient[~is_weighed].abs().max() == 0, "spans of weight 0 get a gradient")
    changed = torch.where(is_weighed, log_q, log_q - 1.0)
    claim(
        torch.allclose(_loss(fresh, changed, spans), loss, rtol=1e-9), "the loss depends on spans of weight 0"
    )
    scaled = replace(spans, weights=10 * spans.weights, normaliser=10 * spans.normaliser)
    halved = replace(spans, normaliser=2 * spans.normaliser)
    claim(
        torch.allclose(_loss(fresh, log_q, scaled), loss, rtol=1e-9)
        and torch.allclose(2 * _loss(fresh, log_q, halved), loss, rtol=1e-9),
        "the loss is not a weighted mean: divide the weighted sum by `normaliser`, and by nothing else",
    )


def _check_packs(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> None:
    """Check that neither the order of the spans nor their distribution over packs changes the loss."""
    import torch

    whole, gradient = _loss(fresh, log_q, spans), _gradient(fresh, log_q, spans)
    n = len(log_q)
    for packs in (
        [[0, 1, 2, 3], list(range(4, n))],
        [list(range(n))[::-1]],
        [[8], [6, 7, 0, 1], [2, 3, 4, 5]],
    ):
        objective = _prepared(fresh)
        parts = torch.stack([total(objective.spans(log_q[pack], spans.part(pack))) for pack in packs]).sum()
        claim(
            torch.allclose(parts, whole, rtol=1e-9),
            f"{len(packs)} packs give {parts.item():.6f}, one gives {whole.item():.6f}: divide the weighted "
            "sum by `normaliser`, not by the pack's own weight",
        )
        (found,) = torch.autograd.grad(parts, log_q)
        claim(torch.allclose(found, gradient, rtol=1e-7), "packs change the gradient of the loss")


def _check_direction(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> None:
    """Check that a chosen completion is pulled up and a rejected one never."""
    gradient = _gradient(fresh, log_q, spans)
    claim((gradient[~spans.is_rejected] <= 0).all(), "chosen completions are pushed down")
    claim((gradient[spans.is_rejected] >= 0).all(), "rejected completions are pulled up")


def _check_equality(fresh: Any, log_q: torch.Tensor, spans: SpanSet) -> None:
    equal = replace(spans, log_p=None if spans.log_p is None else log_q.detach().clone())
    loss = _loss(fresh, log_q, equal).item()
    claim(abs(loss) < 1e-10, f"a divergence is {loss:.3g}, not 0, where student and teacher agree")
    claim(_loss(fresh, log_q, spans).item() > 0, "a divergence is not positive where they differ")
