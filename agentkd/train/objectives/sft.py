"""Supervised fine-tuning: cross-entropy on the target's tokens, weighted token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["Sft", "SftSettings"]


class SftSettings(Value):
    """Options of `sft`."""

    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the target that is spread over the whole vocabulary; 0 trains on the target alone."""


class Sft:
    """Learn to say what the rows say; the weights of roles and tokens are in the rows."""

    name = "sft"
    requires: frozenset[str] = frozenset()

    def __init__(self, settings: SftSettings | None = None) -> None:
        self.label_smoothing = settings.label_smoothing if settings else 0.0

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean negative log-likelihood as the term `sft`."""
        import torch

        from agentkd.train.objectives.divergence import top_k_forward_kl

        # Cross-entropy is the divergence from a teacher who is certain of the target.
        ids, weights = context.targets[:, None], context.weights
        certain = torch.zeros(ids.shape, dtype=context.logits.dtype, device=ids.device)
        total = top_k_forward_kl(context.logits, ids, certain, (1 - self.label_smoothing) * weights)
        if self.label_smoothing:
            spread = context.logits.logsumexp(-1) - context.logits.mean(-1)  # mean of -log q
            total = total + self.label_smoothing * (spread * weights.to(spread.dtype)).sum()
        return {"sft": total / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
