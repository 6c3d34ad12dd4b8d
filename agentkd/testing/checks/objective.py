"""Does an objective keep its promise? Finite scalars, gradients where the weights are, chunks that add up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkd.protocols import Objective
from agentkd.testing.checks.claim import claim

if TYPE_CHECKING:
    import torch

__all__ = ["check_objective"]

_N, _VOCABULARY, _TOP_K = 8, 13, 4


@dataclass
class _Context:
    """One chunk of label positions; see `protocols.StepContext`."""

    logits: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    normaliser: float
    rows: torch.Tensor
    teacher_top_ids: torch.Tensor | None
    teacher_top_log_probs: torch.Tensor | None
    hidden: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None
    step: int = 0
    n_steps: int = 10

    def chunk(self, start: int, end: int) -> _Context:
        ids, log_probs = self.teacher_top_ids, self.teacher_top_log_probs
        return _Context(
            self.logits[start:end],
            self.targets[start:end],
            self.weights[start:end],
            self.normaliser,
            self.rows[start:end],
            None if ids is None else ids[start:end],
            None if log_probs is None else log_probs[start:end],
        )


def check_objective(objective: Objective, *, seed: int = 0) -> None:
    """Check that `objective` keeps `protocols.Objective`, on random logits `[8, 13]`."""
    import torch

    claim(isinstance(objective.name, str) and objective.name, "`name` is empty")
    unknown = set(objective.requires) - {"teacher-top-k"}
    claim(not unknown, f"`requires` asks for what no trainer gives: {sorted(unknown)}")
    objective.prepare(10)
    context = _random_context("teacher-top-k" in objective.requires, seed)
    whole = _total(objective, context)
    (gradient,) = torch.autograd.grad(whole, context.logits)
    claim(torch.isfinite(gradient).all(), "the gradient holds NaN or infinity")
    is_weighed = context.weights > 0
    claim(gradient[is_weighed].abs().sum() > 0, "the loss does not depend on the student's logits")
    claim(gradient[~is_weighed].abs().max() == 0, "positions of weight 0 get a gradient")
    halves = _total(objective, context.chunk(0, 3)) + _total(objective, context.chunk(3, _N))
    claim(
        torch.allclose(halves, whole, rtol=1e-4, atol=1e-6),
        f"two chunks give {halves.item():.6f}, the whole gives {whole.item():.6f}: divide the weighted sum "
        "by `normaliser`, not by the chunk's own weight",
    )
    _check_state(objective, context, whole)


def _random_context(needs_teacher: bool, seed: int) -> _Context:
    import torch

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(_N, _VOCABULARY, generator=generator).requires_grad_()
    targets = torch.randint(_VOCABULARY, (_N,), generator=generator)
    weights = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 2.0, 1.0])
    teacher = torch.randn(_N, _VOCABULARY, generator=generator).log_softmax(-1)
    top = teacher.topk(_TOP_K, dim=-1)
    return _Context(
        logits,
        targets,
        weights,
        float(weights.sum()) * 2,  # as if another chunk of the step weighed as much
        torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]),
        top.indices if needs_teacher else None,
        top.values if needs_teacher else None,
    )


def _total(objective: Objective, context: _Context) -> torch.Tensor:
    import torch

    terms = objective.forward(context)
    claim(terms, "`forward` returned no loss")
    for name, loss in terms.items():
        claim(isinstance(loss, torch.Tensor) and loss.ndim == 0, f"the loss `{name}` is no scalar tensor")
        claim(torch.isfinite(loss), f"the loss `{name}` is {loss.item()}")
    return torch.stack(list(terms.values())).sum()


def _check_state(objective: Objective, context: _Context, whole: torch.Tensor) -> None:
    import torch

    state = objective.state_dict()
    try:
        copied = json.loads(json.dumps(state))
    except TypeError as error:
        raise AssertionError(f"`state_dict` is not JSON: {error}") from error
    objective.load_state_dict(copied)
    claim(
        torch.allclose(_total(objective, context), whole, rtol=1e-4, atol=1e-6),
        "the loss changed after `load_state_dict(state_dict())`",
    )
