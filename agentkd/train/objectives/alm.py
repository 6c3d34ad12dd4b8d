"""Approximate likelihood matching: give stretches of text the probability that the teacher gives them.

A stretch is the smallest one that both tokenisations end together, so any two tokenizers can be matched, and
of the teacher nothing is needed but the log-probabilities of the text's own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import SpanContext

__all__ = ["Alm", "AlmSettings"]


class AlmSettings(Value):
    """Options of the objective `alm`."""

    temperature: float = Field(default=100.0, gt=0.0)
    """Root that is taken of both probabilities (tau of the paper); large values let rare stretches count."""


class Alm:
    """Binary cross-entropy between P_teacher^(1/tau) and P_student^(1/tau) of each stretch.

    The teacher's own entropy, a constant, is taken off, so that the loss is 0 where both agree; it is
    multiplied by tau, so that its gradient by a log-probability is of order one for every tau.

    Source: B. Minixhofer et al., Cross-Tokenizer Distillation via Approximate Likelihood Matching,
    arXiv 2503.20083.
    """

    name = "alm"
    requires: frozenset[str] = frozenset({"teacher-spans"})
    is_divergence = True

    def __init__(self, settings: AlmSettings) -> None:
        self.temperature = settings.temperature

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def spans(self, log_q: torch.Tensor, context: SpanContext) -> Mapping[str, torch.Tensor]:
        """Return the mean divergence as the term `alm`; raises TrainError without the teacher's side."""
        import torch

        if context.log_p is None:
            raise TrainError("`alm` was given no teacher signals")
        a, not_a = _outcomes(context.log_p.to(log_q.dtype), self.temperature)
        b, not_b = _outcomes(log_q, self.temperature)
        zero = torch.zeros((), dtype=log_q.dtype, device=log_q.device)
        said = a.exp() * (a - b)
        unsaid = torch.where(not_a > -torch.inf, not_a.exp() * (not_a - not_b), zero)
        loss = self.temperature * (said + unsaid)
        return {self.name: (loss * context.weights.to(loss.dtype)).sum() / context.normaliser}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


def _outcomes(log_probs: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log P^(1/tau) and log(1 - P^(1/tau)), with P kept a rounding away from 1."""
    import torch

    scaled = (log_probs / temperature).clamp_max(-torch.finfo(log_probs.dtype).eps)
    return scaled, (-torch.expm1(scaled)).log()
