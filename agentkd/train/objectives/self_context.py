"""Context self-distillation: put into the weights what the memories do to the model's answers.

The teacher is the base model itself (adapter off) with the recalled memories in its prompt; the student
has the adapter and does not see them. Needs no second model and works for every kind of target.

Source of the on-policy form: R. Agarwal et al., On-Policy Distillation of Language Models, arXiv 2306.13649.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

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
    policy: Literal["off", "on"] = "off"
    """`off`: on the rows' own targets, with signals that are computed once. `on`: a share of the rows is
    answered by the student itself, and the teacher corrects it on what it says; every such row costs a
    generation."""
    share: float = Field(default=0.5, gt=0.0, le=1.0)
    """With `policy = "on"`: share of a step's rows whose answer is sampled, over many steps where it is no
    whole number of rows; the others keep their target."""
    every: int = Field(default=1, ge=1)
    """With `policy = "on"`: steps between two samplings; more make larger batches of staler answers."""
    temperature: float = Field(default=1.0, gt=0.0)
    """With `policy = "on"`: temperature of sampling."""
    max_new_tokens: int = Field(default=256, ge=1)
    """With `policy = "on"`: longest sampled answer."""


class SelfContext:
    """Forward KL from the top tokens of the base model that sees the memories, on every label.

    Labels are those of the rows' own targets or, on-policy, of the answers that the student sampled in
    their place. Other objectives of the same training see the rows' own targets alone.
    """

    name = "self-context"
    requires: frozenset[str] = frozenset({"teacher-top-k"})
    is_divergence = True

    def __init__(self, settings: SelfContextSettings) -> None:
        self.top_k = settings.top_k
        self.sampling = settings if settings.policy == "on" else None
        self.drawn: dict[str, Any] = {}

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
        """Return what the student sampled for the present steps."""
        return dict(self.drawn)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the same samples."""
        self.drawn = dict(state)
