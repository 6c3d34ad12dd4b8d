"""The generalised Jensen-Shannon divergence with its gradient in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["jensen_shannon"]


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, `[n]`.

    The derivative by log q is ``(1 - beta) q log(q / m)``, what the mixture adds cancels: of the size of the
    distributions one tensor is kept, so that whole vocabularies are as cheap as buckets. By log p alike.

    Args:
        log_p: Log-probabilities of the teacher `[n, k]`; minus infinity counts as nothing.
        log_q: Log-probabilities of the student `[n, k]`.
        beta: Share of the teacher in the mixture, above 0 and below 1.
    """
    found: torch.Tensor = _JensenShannon.apply(log_p, log_q, beta)  # type: ignore[no-untyped-call]
    return found


class _JensenShannon(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
        is_there = log_p.clamp_min(math.log(torch.finfo(log_p.dtype).tiny))
        log_m = torch.logaddexp(is_there + math.log(beta), log_q + math.log1p(-beta))
        from_q = (log_q - log_m).mul_(log_q.exp()).mul_(1 - beta)
        from_p = is_there.sub_(log_m).mul_(log_p.exp()).mul_(beta)  # exactly 0 where p is
        ctx.save_for_backward(from_p if ctx.needs_input_grad[0] else None, from_q)
        return from_p.sum(-1) + from_q.sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from_p, from_q = ctx.saved_tensors
        scale = grads[0][:, None]
        return None if from_p is None else from_p * scale, from_q * scale, None
