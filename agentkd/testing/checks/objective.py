"""Does an objective keep its promise? Exact gradients, zero at equality, no influence of how a step is cut.

Attributes that an objective may declare about itself, and that are checked or taken into account here:

* `is_divergence`: the loss is 0 where student and teacher agree, and positive elsewhere;
* `has_moving_target`: its target follows the student without gradient, so that finite differences see
  another loss;
* `whole_rows`: it needs all labels of a row in one chunk;
* `keep` and `scores`: see `protocols.SelectiveObjective`.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentkd.protocols import Objective, SpanObjective
from agentkd.testing.checks.claim import claim
from agentkd.testing.checks.objective_inputs import Positions, random_positions
from agentkd.testing.checks.objective_spans import check_spans
from agentkd.testing.checks.objective_terms import check_slope, check_state, total

if TYPE_CHECKING:
    import torch

__all__ = ["check_objective"]

_TOKEN_NEEDS = {"teacher-top-k", "teacher-sorted", "teacher-hidden", "reference"}
_SPAN_NEEDS = {"rejected", "reference", "teacher-spans"}


def check_objective(objective: Objective | SpanObjective, *, seed: int = 0) -> None:
    """Check that `objective` keeps `protocols.Objective` or `protocols.SpanObjective`, on random numbers.

    In float64: the gradient against finite differences; zero at equality where `is_divergence` is declared.
    In float32: finite scalars, no influence of positions without weight, sums over chunks that do not depend
    on the chunks, division by `normaliser`, tail mass of top-k losses, and a state that round-trips.
    """
    claim(isinstance(objective.name, str) and objective.name, "`name` is empty")
    on_spans = hasattr(objective, "spans")
    unknown = set(objective.requires) - (_SPAN_NEEDS if on_spans else _TOKEN_NEEDS)
    claim(not unknown, f"`requires` asks for what no trainer gives: {sorted(unknown)}")
    fresh = copy.deepcopy(objective)
    if on_spans:
        check_spans(fresh, seed)
        return
    _check_weights(fresh, seed)
    _check_chunks(fresh, seed)
    _check_gradient(fresh, seed)
    if getattr(objective, "is_divergence", False):
        _check_equality(fresh, seed)
    if "teacher-top-k" in objective.requires:
        _check_tail(fresh, seed)
    if getattr(objective, "keep", 1.0) != 1.0:
        _check_scores(fresh, seed)
    used = _prepared(fresh)
    for step in range(3):
        total(used.forward(replace(_positions(fresh, seed + step), step=step)))
    last = replace(_positions(fresh, seed + 3), step=3)
    check_state(used, fresh, lambda one: total(one.forward(last)))


def _prepared(fresh: Any) -> Any:
    objective = copy.deepcopy(fresh)
    objective.prepare(10)
    return objective


def _positions(objective: Any, seed: int, dtype: Any = None) -> Positions:
    return random_positions(frozenset(objective.requires), seed, dtype)


def _loss(fresh: Any, positions: Positions) -> torch.Tensor:
    return total(_prepared(fresh).forward(positions))


def _gradients(loss: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    import torch

    claim(loss.requires_grad, "the loss does not depend on the student's logits or states")
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def _check_weights(fresh: Any, seed: int) -> None:
    """Check that weights count as they should: nothing at 0, and only in proportion to `normaliser`."""
    import torch

    positions = _positions(fresh, seed)
    loss = _loss(fresh, positions)
    gradients = _gradients(loss, positions.leaves())
    is_weighed = positions.weights > 0
    claim(all(torch.isfinite(g).all() for g in gradients), "the gradient holds NaN or infinity")
    claim(sum(float(g[is_weighed].abs().sum()) for g in gradients) > 0,
          "the loss does not depend on the student's logits or states")  # fmt: skip
    claim(
        all(float(g[~is_weighed].abs().max()) == 0 for g in gradients), "positions of weight 0 get a gradient"
    )
    changed = [torch.where(is_weighed[:, None], leaf, -leaf) for leaf in positions.leaves()]
    claim(
        torch.allclose(_loss(fresh, positions.with_leaves(changed)), loss, rtol=1e-5, atol=1e-7),
        "the loss depends on positions of weight 0",
    )
    scaled = replace(positions, weights=10 * positions.weights, normaliser=10 * positions.normaliser)
    halved = replace(positions, normaliser=2 * positions.normaliser)
    claim(
        torch.allclose(_loss(fresh, scaled), loss, rtol=1e-4, atol=1e-6)
        and torch.allclose(2 * _loss(fresh, halved), loss, rtol=1e-4, atol=1e-6),
        "the loss is not a weighted mean: divide the weighted sum by `normaliser`, and by nothing else",
    )


def _check_chunks(fresh: Any, seed: int) -> None:
    """Check that neither the size nor the order of the chunks changes the loss or its gradient."""
    import torch

    positions = _positions(fresh, seed)
    whole = _loss(fresh, positions)
    gradients = _gradients(whole, positions.leaves())
    n = len(positions.weights)
    borders = positions.borders()
    cuts = [borders] if getattr(fresh, "whole_rows", False) else [borders, [0, 3, n], list(range(n + 1))]
    for cut in cuts:
        spans = list(itertools.pairwise(cut))
        for order in (spans, spans[::-1]):
            objective = _prepared(fresh)
            parts = torch.stack([total(objective.forward(positions.part(a, b))) for a, b in order]).sum()
            claim(
                torch.allclose(parts, whole, rtol=1e-4, atol=1e-6),
                f"{len(spans)} chunks give {parts.item():.6f}, the whole gives {whole.item():.6f}: divide "
                "the weighted sum by `normaliser`, not by the chunk's own weight",
            )
            for one, other in zip(_gradients(parts, positions.leaves()), gradients, strict=True):
                claim(
                    torch.allclose(one, other, rtol=1e-3, atol=1e-6), "chunks change the gradient of the loss"
                )


def _check_gradient(fresh: Any, seed: int) -> None:
    import torch

    if getattr(fresh, "has_moving_target", False):
        return
    positions = _positions(fresh, seed, torch.float64)
    check_slope(lambda leaves: _loss(fresh, positions.with_leaves(leaves)), positions.leaves())


def _check_equality(fresh: Any, seed: int) -> None:
    """Check that the loss is 0 where the student is its teacher, and positive where it is not."""
    import torch

    positions = _positions(fresh, seed, torch.float64)
    claim(_loss(fresh, positions).item() > 0, "a divergence is not positive where student and teacher differ")
    equal = replace(positions)
    if positions.teacher_top_ids is not None:
        top = positions.logits.detach().log_softmax(-1).topk(positions.teacher_top_ids.shape[1], dim=-1)
        equal.teacher_top_ids, equal.teacher_top_log_probs = top.indices, top.values
    if positions.hidden is not None:
        equal.teacher_hidden = positions.hidden.detach()
    loss = _loss(fresh, equal).item()
    claim(abs(loss) < 1e-10, f"a divergence is {loss:.3g}, not 0, where student and teacher agree")


def _check_tail(fresh: Any, seed: int) -> None:
    """Check that what the teacher's top leaves out counts, and that rounding does no harm."""
    import torch

    positions = _positions(fresh, seed, torch.float64)
    ids, log_probs = positions.teacher_top_ids, positions.teacher_top_log_probs
    if ids is None or log_probs is None:
        return
    lifted = positions.logits.detach().scatter_add(1, ids, torch.ones_like(log_probs))
    moved = abs((_loss(fresh, replace(positions, logits=lifted)) - _loss(fresh, positions)).item())
    claim(
        moved > 1e-9,
        "the loss does not see how much probability lies outside the teacher's top tokens: count the rest as "
        "one further bucket",
    )
    rounded = log_probs - log_probs.logsumexp(-1, keepdim=True) + 1e-3  # as float16 may leave it: above 1
    whole = random_positions(frozenset(fresh.requires), seed, torch.float64, k=positions.logits.shape[1])
    for other in (replace(positions, teacher_top_log_probs=rounded), whole):
        for gradient in _gradients(_loss(fresh, other), other.leaves()):
            claim(
                torch.isfinite(gradient).all(),
                "the gradient is not finite where the teacher's top holds all of the probability",
            )


def _check_scores(fresh: Any, seed: int) -> None:
    """Check that a selective objective scores every label by itself."""
    import torch

    positions = _positions(fresh, seed)
    claim(0.0 < fresh.keep < 1.0, f"`keep` is {fresh.keep}, not a share")
    whole = _prepared(fresh).scores(positions)
    claim(whole.shape == positions.weights.shape, f"`scores` returned shape {tuple(whole.shape)}")
    claim(torch.isfinite(whole).all(), "`scores` returned NaN or infinity")
    alone = [_prepared(fresh).scores(positions.part(n, n + 1)) for n in range(len(whole))]
    claim(
        torch.allclose(torch.cat(alone), whole, rtol=1e-4, atol=1e-6),
        "the score of a label depends on the other labels of its chunk",
    )
