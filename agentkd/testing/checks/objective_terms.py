"""What the checks of both kinds of objectives share: terms, slopes and states."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentkd.testing.checks.claim import claim

if TYPE_CHECKING:
    import torch

__all__ = ["check_slope", "check_state", "total"]

_STEP, _SLOPES = 1e-6, 4


def total(terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum of the terms, after a check that they are finite scalars."""
    import torch

    claim(terms, "the objective returned no loss")
    for name, loss in terms.items():
        claim(isinstance(loss, torch.Tensor) and loss.ndim == 0, f"the loss `{name}` is no scalar tensor")
        claim(torch.isfinite(loss), f"the loss `{name}` is {loss.item()}")
    return torch.stack(list(terms.values())).sum()


def check_slope(loss: Callable[[list[torch.Tensor]], torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """Check the gradient against central differences along random directions; `leaves` are float64."""
    import torch

    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    found = torch.autograd.grad(loss(leaves), leaves, allow_unused=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_SLOPES):
        ways = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves]
        pairs = zip(found, ways, strict=True)
        slope = sum(float((gradient * way).sum()) for gradient, way in pairs if gradient is not None)
        with torch.no_grad():
            ahead = loss([leaf + _STEP * way for leaf, way in zip(leaves, ways, strict=True)])
            behind = loss([leaf - _STEP * way for leaf, way in zip(leaves, ways, strict=True)])
        measured = float(ahead - behind) / (2 * _STEP)
        claim(
            abs(measured - slope) <= 1e-5 * max(1.0, abs(slope)),
            f"the gradient says {slope:.8f} along a direction, finite differences say {measured:.8f}; a loss "
            "whose target follows the student without gradient declares `has_moving_target = True`",
        )


def check_state(objective: Any, fresh: Any, loss: Callable[[Any], torch.Tensor]) -> None:
    """Check that a fresh objective goes on from another's state, through JSON, to the same bit."""
    state = objective.state_dict()
    try:
        copied = json.loads(json.dumps(state))
    except TypeError as error:
        raise AssertionError(f"`state_dict` is not JSON: {error}") from error
    resumed = copy.deepcopy(fresh)
    resumed.prepare(10)
    resumed.load_state_dict(copied)
    before, after = (loss(one).item() for one in (objective, resumed))
    claim(
        before == after,
        f"the loss changed after `load_state_dict(state_dict())` from {before!r} to {after!r}",
    )
