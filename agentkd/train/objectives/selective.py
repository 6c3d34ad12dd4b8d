"""Selective distillation: spend the adapter on the tokens that it can still learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.errors import ConfigError, TrainError
from agentkd.schema import Value

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import Objective, StepContext

__all__ = ["Selective", "SelectiveSettings"]

_WRAPPED = frozenset({"teacher-top-k"})


class SelectiveSettings(Value):
    """Options of `selective`."""

    objective: str = "forward-kl"
    """Loss that the kept tokens get: any one on single tokens, on text or on a teacher's top tokens."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of that loss."""
    keep: float = Field(default=0.4, gt=0.0, lt=1.0)
    """Share of each row's labels that is kept."""
    reference: str = "start"
    """Earlier copy whose loss is compared: an adapter folder or `checkpoint:NAME` of a student that was
    distilled before, `start` (the model that training starts from) or `base` (without an adapter)."""


class Selective:
    """Another loss on the labels where the student is furthest behind what an earlier copy has reached.

    Of each row the share `keep` of the labels with the largest ``D = l(q) - l(r)`` counts, where l is the
    forward KL from the teacher (the negative log-likelihood where the loss is on text alone), q the
    student and r the reference. A large D is a label that could be learnt and is not yet; noise that no
    student learns has a small one. The quantile is taken within each row, ``ceil(keep * labels)`` of them,
    of equal ones the earlier: rows are never split between chunks' scores or packs, so that neither
    changes what is kept.

    Source: Y. Hu et al., AdaSPEC, arXiv 2510.19779; there the quantile is taken over a batch.
    """

    name = "selective"

    def __init__(self, settings: SelectiveSettings) -> None:
        self.objective, self.options = settings.objective, settings.options
        self.keep, self.reference = settings.keep, settings.reference
        self.requires: frozenset[str] = frozenset({"reference"})
        self._inner: Objective | None = None

    @property
    def top_k(self) -> int:
        """Teacher tokens that are read."""
        return int(getattr(self._inner, "top_k", 20))

    def wrap(self, inner: Any) -> Selective:
        """Take the loss that the kept labels get; raises ConfigError for one that cannot rank labels."""
        needs = frozenset(inner.requires)
        if hasattr(inner, "spans") or needs - _WRAPPED or getattr(inner, "sampling", None) or inner is self:
            raise ConfigError(
                f"`selective` cannot choose tokens for `{inner.name}`",
                hint="take a loss on text or on a teacher's top tokens, such as `sft`, `forward-kl` or `jsd`",
            )
        self._inner, self.requires = inner, needs | {"reference"}
        self.has_moving_target = bool(getattr(inner, "has_moving_target", False))
        self.whole_rows = bool(getattr(inner, "whole_rows", False))
        self.gathers_state = bool(getattr(inner, "gathers_state", False))
        return self

    def row_bytes(self, n_labels: int) -> int:
        """Return the bytes that the wrapped loss takes for a row at most."""
        needed = getattr(self._inner, "row_bytes", None)
        return int(needed(n_labels)) if needed is not None else 0

    def scores(self, context: StepContext) -> torch.Tensor:
        """Return how far each label's loss is above the reference's, `[n]`."""
        from agentkd.train.objectives.label_loss import label_losses

        ids, log_probs = context.teacher_top_ids, context.teacher_top_log_probs
        if context.reference_loss is None:
            raise TrainError("`selective` was given no reference")
        top = None
        if "teacher-top-k" in self.requires:
            if ids is None or log_probs is None:
                raise TrainError("`selective` was given no teacher signals")
            top = (ids[:, : self.top_k], log_probs[:, : self.top_k])
        return label_losses(context.logits, context.targets, top) - context.reference_loss

    def prepare(self, n_steps: int) -> None:
        """Prepare the wrapped loss."""
        self._wrapped().prepare(n_steps)

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return the wrapped loss of the labels that were kept, named after both."""
        terms = self._wrapped().forward(context)
        return {f"{self.name}-{name}": loss for name, loss in terms.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped loss."""
        return self._wrapped().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._wrapped().load_state_dict(state)

    def _wrapped(self) -> Objective:
        if self._inner is None:
            raise ConfigError(
                f"`selective` wraps `{self.objective}`, which is no built-in loss and was not given to it",
                hint="name its module under `plugins` of the training job",
            )
        return self._inner
