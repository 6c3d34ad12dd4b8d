"""The family of divergences from a teacher's cached top tokens: one formula each, over buckets.

`p` is the teacher, `q` the student; both are distributions over the teacher's top tokens and one bucket
for the rest, so every divergence here is a lower bound of the one over the whole vocabulary (data
processing inequality) and equals it where the top is the whole vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import StepContext

__all__ = [
    "Divergence",
    "JsdSettings",
    "SkewSettings",
    "Taid",
    "TaidSettings",
    "TopKSettings",
    "forward_kl",
    "generalised_jsd",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
]

Formula = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
_LOG_LEAST_KEPT = -24 * math.log(2)  # of float16, in which signals are kept
_LEAST = 1e-6  # a loss below is rounding: its relative change says nothing


class TopKSettings(Value):
    """Options of `forward-kl`, `top-k-kl` and `reverse-kl`."""

    top_k: int = Field(default=20, ge=1, le=1024)
    """Teacher tokens kept per position; what is left of the probability is one further bucket."""


class JsdSettings(TopKSettings):
    """Options of `jsd`."""

    beta: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of the teacher in the mixture; near 0 it acts like forward KL, near 1 like reverse KL."""


class SkewSettings(TopKSettings):
    """Options of `skew-kl`."""

    alpha: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the first distribution that is mixed into the second."""
    reverse: bool = False
    """Whether the student comes first: KL(q || (1 - alpha) p + alpha q)."""


class TaidSettings(TopKSettings):
    """Options of `taid`."""

    start: float = Field(default=0.4, ge=0.0, lt=1.0)
    """Share of the teacher in the intermediate target at the first step."""
    end: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the teacher at the last step."""
    rate: float = Field(default=5e-4, ge=0.0)
    """Size of the adaptive steps (alpha of the paper)."""
    momentum: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Momentum of the relative change of the loss (beta of the paper)."""


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) per position, `[n]`: the student covers all that the teacher does."""
    return _kl(log_p, log_q)


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p) per position, `[n]`: the student does nothing that the teacher would not.

    What the teacher leaves empty counts as the least positive float16, in which the cache keeps its rest:
    nothing smaller can be told from nothing. What the student puts there is charged 17 nats at most, where
    the least float32 would charge 87 for a rounding.
    """
    return _kl(log_q, log_p.masked_fill(log_p == -math.inf, _LOG_LEAST_KEPT))


def generalised_jsd(log_p: torch.Tensor, log_q: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """Return beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, `[n]`.

    Source: R. Agarwal et al., On-Policy Distillation of Language Models (GKD), arXiv 2306.13649.
    """
    from agentkd.train.objectives.jensen_shannon import jensen_shannon

    return jensen_shannon(log_p, log_q, beta)


def skew_kl(log_p: torch.Tensor, log_q: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    """Return KL(p || alpha p + (1 - alpha) q), `[n]`.

    Source: J. Ko et al., DistiLLM, arXiv 2402.03898.
    """
    return _kl(log_p, _mixture(log_p, log_q, alpha))


def skew_reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    """Return KL(q || (1 - alpha) p + alpha q), `[n]`; the source is that of `skew_kl`."""
    return _kl(log_q, _mixture(log_p, log_q, 1 - alpha))


class Divergence:
    """A divergence from the cached top tokens of a teacher, on the target's tokens."""

    requires: frozenset[str] = frozenset({"teacher-top-k"})
    is_divergence = True

    def __init__(self, name: str, formula: Formula, top_k: int) -> None:
        """Make an objective.

        Args:
            name: Name of the component and of its term.
            formula: Maps log-probabilities over buckets, teacher then student, `[n, k + 1]`, to `[n]`.
            top_k: Teacher tokens that are read.
        """
        self.name = name
        self.top_k = top_k
        self._formula = formula

    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean divergence as a term of the objective's name; raises TrainError without signals."""
        log_p, log_q = self._distributions(context)
        return {self.name: self._mean(self._formula(log_p, log_q), context)}

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""

    def _distributions(self, context: StepContext) -> tuple[torch.Tensor, torch.Tensor]:
        from agentkd.train.objectives.buckets import student_buckets, teacher_buckets

        ids, log_probs = context.teacher_top_ids, context.teacher_top_log_probs
        if ids is None or log_probs is None:
            raise TrainError(f"`{self.name}` was given no teacher signals")
        log_q = student_buckets(context.logits, ids[:, : self.top_k])
        return teacher_buckets(log_probs[:, : self.top_k], log_q.dtype), log_q

    @staticmethod
    def _mean(per_position: torch.Tensor, context: StepContext) -> torch.Tensor:
        return (per_position * context.weights.to(per_position.dtype)).sum() / context.normaliser


class Taid(Divergence):
    """Forward KL from a target that moves from the student to the teacher while the loss falls.

    The target is ``softmax((1 - t) log q + t log p)`` over the buckets, without gradient through q; t grows
    from `start` to `end`, never slower than linearly, faster while the loss falls.

    Source: M. Shing et al., TAID, arXiv 2501.16937.
    """

    has_moving_target = True
    gathers_state = True

    def __init__(self, settings: TaidSettings) -> None:
        super().__init__("taid", forward_kl, settings.top_k)
        self.settings = settings
        self._n_steps = 1
        self._t = settings.start
        self._trend = 0.0
        self._before: float | None = None
        self._step = 0
        self._sum = 0.0

    def prepare(self, n_steps: int) -> None:
        """Learn over how many steps t grows."""
        self._n_steps = max(n_steps, 1)

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the mean divergence from the present target."""
        if context.step != self._step:
            self._advance(context.step)
        log_p, log_q = self._distributions(context)
        target = ((1 - self._t) * log_q.detach() + self._t * log_p).log_softmax(-1)
        loss = self._mean(_kl(target, log_q), context)
        self._sum += float(loss.detach())
        return {self.name: loss}

    def _advance(self, step: int) -> None:
        """Move t at the end of an optimiser step by the mean loss that it had."""
        settings, loss, faster = self.settings, self._sum, self._t
        if self._before is not None:
            if self._before > _LEAST:
                change = (self._before - loss) / self._before
                self._trend = settings.momentum * self._trend + (1 - settings.momentum) * change
            faster += settings.rate * _sigmoid(self._trend) * (1 - self._t)
        linear = settings.start + (settings.end - settings.start) * step / max(1, self._n_steps - 1)
        self._t = min(settings.end, max(faster, linear))
        self._before, self._step, self._sum = loss, step, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return where the target is."""
        return {
            "t": self._t,
            "trend": self._trend,
            "before": self._before,
            "step": self._step,
            "sum": self._sum,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._t, self._trend = float(state["t"]), float(state["trend"])
        self._before = None if state["before"] is None else float(state["before"])
        self._step, self._sum = int(state["step"]), float(state["sum"])


def _kl(log_a: torch.Tensor, log_b: torch.Tensor) -> torch.Tensor:
    """Return KL(a || b) per row, where nothing counts as nothing: 0 log 0 = 0, with a finite gradient."""
    import torch

    is_there = log_a > -torch.inf
    a = torch.where(is_there, log_a, 0)
    return torch.where(is_there, a.exp() * (a - log_b), 0).sum(-1)


def _mixture(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    """Return log(share p + (1 - share) q)."""
    import torch

    return torch.logaddexp(_floored(log_p) + math.log(share), log_q + math.log1p(-share))


def _floored(log_p: torch.Tensor) -> torch.Tensor:
    import torch

    return log_p.clamp_min(math.log(torch.finfo(log_p.dtype).tiny))


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))
    return (1 if x >= 0 else small) / (1 + small)
