"""Supervised fine-tuning: cross-entropy on the target's tokens, weighted token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["Sft"]


class Sft:
    """Learn to say what the rows say; the weights of roles and tokens are in the rows."""

    name = "sft"
    requires: frozenset[str] = frozenset()

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean negative log-likelihood as the term `sft`."""
        import torch

        from agentkd.train.objectives.divergence import top_k_forward_kl

        # Cross-entropy is the divergence from a teacher who is certain of the target.
        ids = context.targets[:, None]
        certain = torch.zeros(ids.shape, dtype=context.logits.dtype, device=ids.device)
        return {"sft": top_k_forward_kl(context.logits, ids, certain, context.weights) / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
