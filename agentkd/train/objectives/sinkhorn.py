"""Sinkhorn distillation: move the student's distributions of a row onto the teacher's as a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = ["Sinkhorn", "SinkhornSettings"]


_TENSORS = 3  # float32 `[m, m, k + 1]` that are alive at one time, as measured


class SinkhornSettings(Value):
    """Options of the objective `sinkhorn`."""

    top_k: int = Field(default=20, ge=1, le=1024)
    """Teacher tokens kept per position; what is left of the probability is one further bucket."""
    epsilon: float = Field(default=0.1, gt=0.0)
    """Entropy of the transport plan: small values match positions one to one."""
    iterations: int = Field(default=20, ge=1, le=1000)
    """Rounds of normalising rows and columns."""


class Sinkhorn:
    """Cost of the entropic optimal transport between the label positions of student and teacher.

    The batch is the labels of one row: the trainer never cuts a row into two chunks for this loss
    (`whole_rows`), so that neither the size of the chunks nor the packing changes it; its memory grows with
    the square of a row's labels. Moving the distribution at position i to that at j costs their L1 distance
    over the teacher's top tokens at j and one bucket for the rest; each position carries its weight. The
    gradient goes through the cost under a fixed plan, which is the gradient of the regularised transport
    (envelope theorem).

    Source: X. Cui et al., SinKD, arXiv 2402.17110; there over the logits of a whole batch.
    """

    name = "sinkhorn"
    requires: frozenset[str] = frozenset({"teacher-top-k"})
    whole_rows = True
    has_moving_target = True

    def __init__(self, settings: SinkhornSettings) -> None:
        self.settings = settings
        self.top_k = settings.top_k

    def row_bytes(self, n_labels: int) -> int:
        """Return the bytes of the distances of a row, forward and backward."""
        return _TENSORS * 4 * n_labels**2 * (self.top_k + 1)

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean cost as the term `sinkhorn`; raises TrainError without signals."""
        import torch

        ids, log_p = context.teacher_top_ids, context.teacher_top_log_probs
        if ids is None or log_p is None:
            raise TrainError("`sinkhorn` was given no teacher signals")
        q = context.logits.softmax(-1)
        total = q.new_zeros(())
        for row in torch.unique_consecutive(context.rows):
            kept = ((context.rows == row) & (context.weights > 0)).nonzero()[:, 0]
            if len(kept):
                cost = _costs(q[kept], ids[kept, : self.top_k], log_p[kept, : self.top_k])
                plan = self.plan(cost.detach(), context.weights[kept].to(cost.dtype))
                total = total + (plan * cost).sum()
        return {self.name: total / context.normaliser}

    def plan(self, cost: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the plan `[m, m]` with the weights as its marginals, computed in the log domain."""
        log_k, log_w = -cost / self.settings.epsilon, weights.log()
        left, right = log_w.new_zeros(len(weights)), log_w.new_zeros(len(weights))
        for _ in range(self.settings.iterations):
            right = log_w - (log_k + left[:, None]).logsumexp(0)
            left = log_w - (log_k + right[None, :]).logsumexp(1)
        return (log_k + left[:, None] + right[None, :]).exp()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


def _costs(q: torch.Tensor, ids: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Return the distance of each student position to each teacher position, `[m, m]`."""
    p = log_p.to(q.dtype).exp()
    p = p / p.sum(-1, keepdim=True).clamp_min(1)  # kept in float16, the top may pass 1
    found = q[:, ids.flatten()].view(len(q), *ids.shape)  # [student, teacher, k]
    rest = (1 - found.sum(-1)) - (1 - p.sum(-1))[None]
    cost: torch.Tensor = (found - p[None]).abs().sum(-1) + rest.abs()
    return cost
