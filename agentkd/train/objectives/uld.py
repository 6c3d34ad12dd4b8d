"""Universal logit distillation: match the sorted probabilities of a teacher with any vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["Uld", "UldSettings"]


class UldSettings(Value):
    """Options of the objective `uld`."""

    top_k: int = Field(default=20, ge=1, le=1024)
    """Largest probabilities that are compared one by one; what is left of each is one further."""


class Uld:
    """Sum over ranks of |p - q|: the optimal transport between vocabularies whose tokens cannot be matched.

    Sees the positions where teacher and student begin a token at the same byte. Truncated to `top_k` ranks
    and one rest, it is a lower bound of the sum over the whole vocabulary (triangle inequality).

    Source: N. Boizard et al., Towards Cross-Tokenizer Distillation, arXiv 2402.12030.
    """

    name = "uld"
    requires: frozenset[str] = frozenset({"teacher-sorted"})
    is_divergence = True

    def __init__(self, settings: UldSettings) -> None:
        self.top_k = settings.top_k

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean distance as the term `uld`; raises TrainError without signals."""
        log_probs = context.teacher_top_log_probs
        if log_probs is None:
            raise TrainError("`uld` was given no teacher signals")
        p = log_probs[:, : self.top_k].to(context.logits.dtype).exp()
        p = p / p.sum(-1, keepdim=True).clamp_min(1)  # kept in float16, the top may pass 1
        k = min(p.shape[1], context.logits.shape[1])
        q = context.logits.softmax(-1).topk(k, dim=-1).values
        distance = (p[:, :k] - q).abs().sum(-1) + (p[:, k:].sum(-1))
        rest = (1 - p.sum(-1)) - (1 - q.sum(-1))
        per_position = distance + rest.abs()
        return {self.name: (per_position * context.weights.to(p.dtype)).sum() / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
