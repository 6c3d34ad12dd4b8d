"""Forward KL from a teacher's top tokens with its gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["top_k_forward_kl"]


def top_k_forward_kl(
    logits: torch.Tensor, top_ids: torch.Tensor, top_log_probs: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum over positions of KL(teacher || student), a scalar in nats.

    With K the teacher's top tokens and t = 1 - sum over K the tail that it left out,
    ``L = sum_K p_k log(p_k / q_k) + t_p log(t_p / t_q)``: every token outside K counts as one bucket.
    ``dL/dz`` is ``q - p`` on K and ``q (1 - t_p / t_q)`` elsewhere, so that one tensor of the logits' size is
    all that is kept. Equals the full divergence where the teacher's tail is empty or spread as the
    student's.

    Args:
        logits: Student logits `[n, v]`.
        top_ids: Distinct token ids `[n, k]`.
        top_log_probs: Teacher's natural-log probabilities `[n, k]`; where rounding makes their sum pass 1,
            they are scaled back.
        weights: Weight per position `[n]`.
    """
    total: torch.Tensor = _TopKForwardKl.apply(logits, top_ids, top_log_probs, weights)  # type: ignore[no-untyped-call]
    return total


class _TopKForwardKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        top_ids: torch.Tensor,
        top_log_probs: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        log_q = logits.log_softmax(-1)
        log_q_top = log_q.gather(-1, top_ids)
        q = log_q.exp_()
        q_top = q.gather(-1, top_ids)
        log_p = top_log_probs.to(q.dtype)
        log_p = log_p - log_p.logsumexp(-1, keepdim=True).clamp_min(0)
        p = log_p.exp()
        tail_p = (1 - p.sum(-1)).clamp_min(0)
        tail_p = torch.where(tail_p > 4 * torch.finfo(q.dtype).eps, tail_p, 0)
        rest = q.scatter_(-1, top_ids, 0)
        tail_q = rest.sum(-1).clamp_min(torch.finfo(q.dtype).tiny)
        head = torch.where(p > 0, p * (log_p - log_q_top), 0).sum(-1)
        loss = head + torch.xlogy(tail_p, tail_p) - tail_p * tail_q.log()
        gradient = rest.mul_((1 - tail_p / tail_q)[:, None]).scatter_(-1, top_ids, q_top - p)
        scale = weights.to(q.dtype)
        ctx.save_for_backward(gradient.mul_(scale[:, None]))
        return (loss * scale).sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None
