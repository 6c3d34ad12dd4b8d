"""Losses on pairs: make the chosen completion likelier than the rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import SpanContext

__all__ = ["Dpo", "DpoSettings", "Redi", "RediSettings", "pair_margins"]


class DpoSettings(Value):
    """Options of `dpo`."""

    beta: float = Field(default=0.1, gt=0.0)
    """How strongly the student is held to its reference: the factor of the log-ratio; larger holds more."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round."""
    length_normalised: bool = False
    """Divide each completion's log-ratio by its number of tokens, so that a long one weighs no more; `beta`
    is then wanted larger, such as 2."""
    reference: str = "start"
    """`start`: the model that training starts from; `base`: its base without an adapter; an adapter folder;
    or `none` for the log-probability alone."""


class RediSettings(Value):
    """Options of `redi`."""

    alpha: float = Field(default=0.8, ge=0.0, le=1.0)
    """Weight of the rejected completions; at 1 they are pushed down as hard as the chosen are pulled up."""


class _Stateless:
    def prepare(self, n_steps: int) -> None:
        """Need nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the loss has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""


class Dpo(_Stateless):
    """Logistic loss on how much more than its reference the student prefers the chosen completion.

    ``-log sigmoid(beta ((log q(y+) - log r(y+)) - (log q(y-) - log r(y-))))`` with the reference r. A
    completion without a partner (a failed run without a repair) is compared with a log-ratio of 0, which
    is the loss of negative preference optimisation up to its scale.

    Source: R. Rafailov et al., Direct Preference Optimization, arXiv 2305.18290; label smoothing after E.
    Mitchell, A note on DPO with noisy preferences; lone completions after R. Zhang et al., arXiv
    2404.05868.
    """

    name = "dpo"

    def __init__(self, settings: DpoSettings) -> None:
        self.settings = settings
        self.reference = settings.reference
        needs = {"rejected"} if settings.reference == "none" else {"rejected", "reference"}
        self.requires: frozenset[str] = frozenset(needs)

    def spans(self, log_q: torch.Tensor, context: SpanContext) -> Mapping[str, torch.Tensor]:
        """Return the mean over the pairs as the term `dpo`; raises TrainError without a wanted reference."""
        import torch.nn.functional as F

        ratio = log_q
        if "reference" in self.requires:
            if context.log_q_reference is None:
                raise TrainError("`dpo` was given no reference")
            ratio = ratio - context.log_q_reference
        if self.settings.length_normalised:
            ratio = ratio / context.n_labels
        margin, weights = pair_margins(ratio, context)
        margin, smoothing = self.settings.beta * margin, self.settings.label_smoothing
        losses = -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
        return {self.name: (losses * weights).sum() / context.normaliser}


class Redi(_Stateless):
    """Reference-free likelihood of the chosen minus a smaller share of that of the rejected completion.

    ``-log q(y+) / |y+| + alpha log q(y-) / |y-|``: the second stage of reinforcement distillation. Its first
    stage is `sft`: in a training before (go on from its adapter), or in the same sum with a weight. The
    second term has no lower bound, so that small learning rates and few passes are in order.

    Source: S. Xu et al., Harnessing Negative Signals (REDI), arXiv 2505.24850.
    """

    name = "redi"
    requires: frozenset[str] = frozenset({"rejected"})

    def __init__(self, settings: RediSettings) -> None:
        self.alpha = settings.alpha

    def spans(self, log_q: torch.Tensor, context: SpanContext) -> Mapping[str, torch.Tensor]:
        """Return the mean over the pairs as the terms `redi-chosen` and `redi-rejected`."""
        import torch

        each = log_q / context.n_labels * context.weights.to(log_q.dtype) / context.normaliser
        zero = torch.zeros_like(each)
        return {
            "redi-chosen": -torch.where(context.is_rejected, zero, each).sum(),
            "redi-rejected": self.alpha * torch.where(context.is_rejected, each, zero).sum(),
        }


def pair_margins(scores: torch.Tensor, context: SpanContext) -> tuple[torch.Tensor, torch.Tensor]:
    """Return chosen minus rejected score and the weight of each pair, `[pairs]` each.

    A span without a partner is a pair of its own whose other side scores 0.
    """
    import torch

    pair, is_alone = context.pair, context.pair < 0
    n_pairs = int(pair.max()) + 1 if len(pair) else 0
    owner = torch.where(is_alone, n_pairs + is_alone.long().cumsum(0) - 1, pair)
    n = n_pairs + int(is_alone.sum())
    margins = scores.new_zeros(n).index_add(0, owner, torch.where(context.is_rejected, -scores, scores))
    counted = torch.where(is_alone | ~context.is_rejected, context.weights, 0).to(scores.dtype)
    return margins, scores.new_zeros(n).index_add(0, owner, counted)
