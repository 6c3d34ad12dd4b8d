"""PROMISES: what an objective and a trainer must do, and what an objective sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentkd.schema import Checkpoint, TrainJob, TrainPlan

if TYPE_CHECKING:
    import torch

    from agentkd.protocols import Progress

__all__ = ["Objective", "SelectiveObjective", "SpanContext", "SpanObjective", "StepContext", "Trainer"]


class StepContext(Protocol):
    """What an objective sees of one chunk of label positions; every tensor is on one device.

    Axes: `n` label positions of the chunk, `v` vocabulary, `k` teacher's top tokens, `w` width of the
    student's states. What no objective asked for is None.
    """

    logits: torch.Tensor
    """Student logits `[n, v]`, float32, requires grad."""
    targets: torch.Tensor
    """Token ids that were to be predicted, `[n]`."""
    weights: torch.Tensor
    """Loss weight per position, `[n]`."""
    normaliser: float
    """Labels with a weight in the whole optimiser step, times their mean weight in the whole training: divide
    the weighted sum by it."""
    rows: torch.Tensor
    """Number of the row that each position belongs to, `[n]`, ascending."""
    teacher_top_ids: torch.Tensor | None
    """Teacher's top token ids `[n, k]` where signals were asked for."""
    teacher_top_log_probs: torch.Tensor | None
    """Their natural-log probabilities `[n, k]`."""
    hidden: torch.Tensor | None
    """Student's last states `[n, w]`, requires grad, where `teacher-hidden` was asked for."""
    teacher_hidden: torch.Tensor | None
    """Teacher's last states at the same labels, `[n, width of the teacher]`."""
    reference_loss: torch.Tensor | None
    """Loss of the reference at each label, `[n]`, where `reference` was asked for: its forward KL from the
    teacher's top tokens, or its negative log-likelihood where no teacher was asked for."""
    step: int
    """Optimiser step, from 0."""
    n_steps: int
    """Optimiser steps of the whole job."""


class SpanContext(Protocol):
    """What a loss on spans sees of one pack; `m` spans, each with all its labels; one device.

    A span is a whole completion of a pair, or a stretch of text that teacher and student both end at.
    """

    n_labels: torch.Tensor
    """Labels in each span, `[m]`."""
    weights: torch.Tensor
    """Loss weight of each span, `[m]`."""
    pair: torch.Tensor
    """Number of the pair that each span belongs to, `[m]`; -1 for a span without a partner."""
    is_rejected: torch.Tensor
    """Whether the span is what must not be said, bool `[m]`."""
    log_q_reference: torch.Tensor | None
    """Log-probability of each span under the reference, `[m]`, where `reference` was asked for."""
    log_p: torch.Tensor | None
    """Log-probability of each span under the teacher, `[m]`, where `teacher-spans` was asked for."""
    normaliser: float
    """Spans with a weight in the whole optimiser step (a pair counts once), times their mean weight in the
    whole training."""
    step: int
    """Optimiser step, from 0."""
    n_steps: int
    """Optimiser steps of the whole job."""


@runtime_checkable
class Objective(Protocol):
    """A loss. Terms are summed after each was normalised by its own token count.

    What it may declare besides: `is_divergence = True` (0 where student and teacher agree, positive
    elsewhere), `has_moving_target = True` (the target follows the student without gradient), `whole_rows =
    True` (it needs all labels of a row in one chunk), `row_bytes(n_labels)` (a method: bytes that a row of so
    many labels takes beside its logits, for the planner), `gathers_state = True` (its state
    follows from the chunks that it saw, so that several processes may not share them), `top_k` (teacher
    tokens that it reads), `reference` (see `SelectiveObjective`). `agentkd.testing.check_objective` checks
    what is declared.
    """

    name: str
    requires: frozenset[str]
    """Subset of {`teacher-top-k`, `teacher-sorted`, `teacher-hidden`, `reference`}; empty for text alone.

    `teacher-top-k`: top tokens of a teacher with the same vocabulary. `teacher-sorted`: top probabilities
    of a teacher with any vocabulary, best first, without ids. `teacher-hidden`: states of a local teacher.
    """

    def prepare(self, n_steps: int) -> None:
        """Learn the length of the job before the first step."""

    def forward(self, context: StepContext) -> Mapping[str, torch.Tensor]:
        """Return named scalar losses of this chunk; each already divided by `context.normaliser`."""

    def state_dict(self) -> dict[str, Any]:
        """Return JSON-able state for a resumable save."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


@runtime_checkable
class SelectiveObjective(Objective, Protocol):
    """A loss on the share of each row's labels that it scores highest.

    The trainer scores all labels of a pack without a graph, keeps ``ceil(keep * labels)`` of each row (those
    with a weight; of equal scores the earlier) and calls `forward` with chunks of the kept ones. The
    `normaliser` counts the labels that are kept. A row is never split between packs, so
    that neither chunks nor packs change what is kept.
    """

    keep: float
    """Share of each row's labels, above 0 and below 1."""
    reference: str
    """With `reference` in `requires`: `start` (the model that training starts from), `base` (without an
    adapter) or an adapter folder."""

    def scores(self, context: StepContext) -> torch.Tensor:
        """Return a score per label, `[n]`, that depends on that label alone."""


@runtime_checkable
class SpanObjective(Protocol):
    """A loss on sums of log-probabilities: preference pairs, aligned stretches of text.

    The trainer computes `log_q` once without a graph, takes the gradient of `spans` with respect to it, and
    weighs every label with its span's gradient in a second pass over the chunks: exact, and no more logits
    at one time than for any other loss.
    """

    name: str
    requires: frozenset[str]
    """Subset of {`rejected`, `reference`, `teacher-spans`}; `rejected` asks for rows with a rejected
    completion, `reference` for what the attribute `reference` names (`start`, `base` or an adapter folder),
    `teacher-spans` for aligned spans of the teacher."""

    def prepare(self, n_steps: int) -> None:
        """Learn the length of the job before the first step."""

    def spans(self, log_q: torch.Tensor, context: SpanContext) -> Mapping[str, torch.Tensor]:
        """Return named scalar losses from the log-probability of each span, `[m]`, which requires grad.

        Each is already divided by `context.normaliser`.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return JSON-able state for a resumable save."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


@runtime_checkable
class Trainer(Protocol):
    """Trains an adapter; a killed training goes on from its last save when called again."""

    def train(self, job: TrainJob, progress: Progress | None = None) -> Checkpoint:
        """Return the finished checkpoint; raises TrainError."""

    def plan(self, job: TrainJob, progress: Progress | None = None) -> TrainPlan:
        """Return what the training would take; start nothing."""
