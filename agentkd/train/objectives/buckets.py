"""Distributions over buckets: the teacher's top tokens one by one, and one bucket for all the rest.

Every divergence between teacher and student is a small formula on `[n, k + 1]` once the student's
log-probabilities of these buckets are known. Their gradient is in closed form, so that of the
vocabulary's size only the probabilities are kept.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["student_buckets", "teacher_buckets"]


def student_buckets(logits: torch.Tensor, top_ids: torch.Tensor) -> torch.Tensor:
    """Return the student's log-probabilities `[n, k + 1]` of the buckets; the last one is the rest.

    With q = softmax(z): for a top token ``d log q_k / dz = e_k - q``, and for the rest
    ``d log t / dz_j = (q_j / t outside the top, else 0) - q_j``. Where the top is the whole vocabulary the
    last bucket is empty, its log-probability very low and its gradient zero.

    Args:
        logits: Student logits `[n, v]`, float32 or float64.
        top_ids: Distinct token ids `[n, k]`.
    """
    found: torch.Tensor = _Buckets.apply(logits, top_ids)  # type: ignore[no-untyped-call]
    return found


def teacher_buckets(top_log_probs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the teacher's log-probabilities `[n, k + 1]`, with what its top tokens leave in the last.

    Rounding (signals are kept in float16) may make the top pass 1; it is scaled back then, and a rest within
    rounding of nothing is nothing: minus infinity.
    """
    log_p = top_log_probs.to(dtype)
    log_p = log_p - log_p.logsumexp(-1, keepdim=True).clamp_min(0)
    rest = (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(0)
    rest = torch.where(rest > 4 * torch.finfo(dtype).eps, rest, 0)
    return torch.cat([log_p, rest.log()], -1)


class _Buckets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, top_ids: torch.Tensor) -> torch.Tensor:
        log_q = logits.log_softmax(-1)
        top = log_q.gather(-1, top_ids)
        rest = log_q.exp_().scatter_(-1, top_ids, 0)  # probabilities outside the top
        tail = rest.sum(-1, keepdim=True)
        ctx.save_for_backward(rest, tail, top, top_ids)
        return torch.cat([top, tail.clamp_min(torch.finfo(tail.dtype).tiny).log()], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rest, tail, top, top_ids = ctx.saved_tensors
        (grad,) = grads
        inside, outside = grad[:, :-1], grad[:, -1:]
        outside = torch.where(tail > 0, outside, 0)
        total = inside.sum(-1, keepdim=True) + outside
        share = torch.where(tail > 0, outside / tail.clamp_min(torch.finfo(tail.dtype).tiny), 0)
        gradient = rest * (share - total)
        return gradient.scatter_(-1, top_ids, inside - top.exp() * total), None
