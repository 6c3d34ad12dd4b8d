"""The loss of single labels, to rank them by: forward KL from a teacher, or negative log-likelihood."""

from __future__ import annotations

import torch

from agentkd.train.objectives.buckets import student_buckets, teacher_buckets
from agentkd.train.objectives.divergences import forward_kl

__all__ = ["label_losses"]


def label_losses(
    logits: torch.Tensor, targets: torch.Tensor, top: tuple[torch.Tensor, torch.Tensor] | None
) -> torch.Tensor:
    """Return the loss of each label, `[n]`: the forward KL from the teacher's top tokens, or the NLL.

    Args:
        logits: `[n, v]`.
        targets: `[n]`.
        top: Teacher's top ids and log-probabilities, `[n, k]` each; None for text alone.
    """
    if top is None:
        return -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    log_q = student_buckets(logits, top[0])
    return forward_kl(teacher_buckets(top[1], log_q.dtype), log_q)
