"""Context self-distillation: put into the weights what the memories do to the model's answers.

The teacher is the base model itself (adapter off) with the recalled memories in its prompt; the student
has the adapter and does not see them. Needs no second model and works for every kind of target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["SelfContext", "SelfContextSettings"]


class SelfContextSettings(Value):
    """Options of the objective `self-context`."""

    top_k: int = Field(default=20, ge=1, le=1024)
    """Teacher tokens kept per position; what is left of the probability is one further bucket."""


class SelfContext:
    """Forward KL from the cached top-k of the teacher to the student, on the target's tokens."""

    name = "self-context"
    requires: frozenset[str] = frozenset({"teacher-top-k"})

    def __init__(self, settings: SelfContextSettings) -> None:
        self.top_k = settings.top_k

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean divergence as the term `self-context`; raises TrainError without signals."""
        from agentkd.train.objectives.divergence import top_k_forward_kl

        ids, log_probs = context.teacher_top_ids, context.teacher_top_log_probs
        if ids is None or log_probs is None:
            raise TrainError("`self-context` was given no teacher signals")
        ids, log_probs = ids[:, : self.top_k], log_probs[:, : self.top_k]
        total = top_k_forward_kl(context.logits, ids, log_probs, context.weights)
        return {"self-context": total / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
