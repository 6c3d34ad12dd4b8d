"""A pack with all that its losses need: kinds of labels, teacher signals, spans, references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from agentkd.train.packing import Pack

__all__ = [
    "KNOWN_NEEDS",
    "OWN",
    "REJECTED",
    "SAMPLED",
    "TEACHER",
    "Batch",
    "Chunk",
    "PackSignals",
    "PackSpans",
    "Spans",
    "Weighted",
]

TEACHER, TEACHER_HIDDEN = "teacher-top-k", "teacher-hidden"
_TEACHER_TOKENS = frozenset({TEACHER, "teacher-sorted", TEACHER_HIDDEN})
KNOWN_NEEDS = _TEACHER_TOKENS | {"teacher-spans", "rejected", "reference"}
"""What an objective's `requires` may hold."""

OWN, REJECTED, SAMPLED = 0, 1, 2
"""Kinds of labels: of a row's own target, of its rejected completion, of a completion that the student
sampled."""


@dataclass
class Chunk:
    """Some label positions of a pack; see `agentkd.protocols.StepContext` for every field."""

    logits: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    normaliser: float
    rows: torch.Tensor
    teacher_top_ids: torch.Tensor | None
    teacher_top_log_probs: torch.Tensor | None
    step: int
    n_steps: int
    hidden: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None
    reference_loss: torch.Tensor | None = None


@dataclass
class Spans:
    """The spans of a pack; see `agentkd.protocols.SpanContext` for every field."""

    n_labels: torch.Tensor
    weights: torch.Tensor
    pair: torch.Tensor
    is_rejected: torch.Tensor
    log_q_reference: torch.Tensor | None
    log_p: torch.Tensor | None
    normaliser: float
    step: int
    n_steps: int


@dataclass(frozen=True)
class PackSignals:
    """Teacher signals of a pack's labels; rows without a teacher are masked out."""

    top_ids: torch.Tensor
    """Top token ids, int64 `[n, k]`."""
    log_probs: torch.Tensor
    """Their log-probabilities, float32 `[n, k]`; what they leave of 1 is the teacher's own tail."""
    has_teacher: torch.Tensor
    """Which labels have signals, bool `[n]`."""
    hidden: torch.Tensor | None = None
    """Teacher's last states, float32 `[n, width of the teacher]`, where an objective asked for them."""


@dataclass(frozen=True)
class PackSpans:
    """Which labels of a pack form spans whose log-probabilities are summed; `n` labels, `m` spans."""

    span_of: torch.Tensor
    """Span of each label, int64 `[n]`; -1 for a label in none."""
    factors: torch.Tensor
    """Factor of each label's log-probability in its span's sum, `[n]`."""
    n_labels: torch.Tensor
    """Sum of the factors in each span, `[m]`: its number of labels where all factors are 1."""
    weights: torch.Tensor
    """Loss weight of each span, `[m]`."""
    pair: torch.Tensor
    """Number of the pair that each span belongs to, int64 `[m]`; -1 for a span without a partner."""
    is_rejected: torch.Tensor
    """Whether the span is what must not be said, bool `[m]`."""
    log_q_reference: torch.Tensor | None = None
    """Log-probability of each span under the reference, `[m]`."""
    log_p: torch.Tensor | None = None
    """Log-probability of each span under the teacher, `[m]`."""

    def count(self) -> int:
        """Return the number of spans with a weight; a pair counts once."""
        counts = ((self.pair < 0) | ~self.is_rejected) & (self.weights > 0)
        return int(counts.sum())

    def with_reference(self, log_probs: torch.Tensor) -> PackSpans:
        """Return the spans with the reference's sums of the labels' log-probabilities `[n]`."""
        is_in = self.span_of >= 0
        sums = torch.zeros_like(self.n_labels)
        sums.index_add_(0, self.span_of[is_in], self.factors[is_in] * log_probs[is_in])
        return replace(self, log_q_reference=sums)

    def context(self, normaliser: float, step: int, n_steps: int) -> Spans:
        """Return what the objective sees."""
        return Spans(
            self.n_labels, self.weights, self.pair, self.is_rejected, self.log_q_reference, self.log_p,
            normaliser, step, n_steps,
        )  # fmt: skip


@dataclass(frozen=True)
class Weighted:
    """An objective with its weight in the sum and the plugin that answers for it."""

    objective: Any
    """An `Objective` or a `SpanObjective`."""
    weight: float
    """Factor of its terms."""
    plugin: str
    """Plugin that offered it."""
    mean_weight: float = 1.0
    """Mean weight of what the whole training has for it, labels or pairs: see `normalisers`."""

    @property
    def name(self) -> str:
        """Name of the objective: the key of its normaliser and its spans."""
        return str(self.objective.name)

    @property
    def needs_teacher(self) -> bool:
        """Whether it sees only labels that have teacher signals."""
        return bool(_TEACHER_TOKENS & self.objective.requires)

    @property
    def is_on_spans(self) -> bool:
        """Whether it is a loss on sums of log-probabilities."""
        return hasattr(self.objective, "spans")

    @property
    def keep(self) -> float:
        """Share of each row's labels that it learns from; below 1 it scores them (`SelectiveObjective`)."""
        return float(getattr(self.objective, "keep", 1.0))

    @property
    def samples(self) -> bool:
        """Whether it learns from completions that the student samples, where there are some."""
        return getattr(self.objective, "sampling", None) is not None


@dataclass(frozen=True)
class Batch:
    """One pack of a step with what belongs to its labels, `n` of them."""

    pack: Pack
    """Rows in one sequence."""
    kinds: torch.Tensor
    """Kind of each label, int64 `[n]`, on the CPU: `OWN`, `REJECTED` or `SAMPLED`."""
    signals: PackSignals | None = None
    """Teacher signals."""
    spans: Mapping[str, PackSpans] = field(default_factory=dict)
    """Spans by the name of the objective that asked for them."""
    references: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Loss of the reference at each label, `[n]`, by the name of the objective that asked for it."""
    is_replaced: torch.Tensor | None = None
    """Labels of own targets in whose place the student sampled a completion, bool `[n]`, on the CPU."""

    @classmethod
    def of(cls, pack: Pack, signals: PackSignals | None = None) -> Batch:
        """Take a pack of rows' own targets."""
        return cls(pack, torch.full((len(pack.labels),), OWN), signals)

    def rows(self) -> torch.Tensor:
        """Return the number of each label's row in the pack, int64 `[n]`, ascending."""
        numbers: dict[int, int] = {}
        return torch.tensor([numbers.setdefault(number, len(numbers)) for number, _ in self.pack.labels])

    def seen(self, weighted: Weighted) -> torch.Tensor:
        """Return which labels a token-level objective learns from, bool `[n]`, on the CPU."""
        seen = self.kinds == OWN
        if weighted.samples and self.is_replaced is not None:
            seen = (seen & ~self.is_replaced) | (self.kinds == SAMPLED)
        if weighted.needs_teacher:
            seen = seen & self.signals.has_teacher.cpu() if self.signals else torch.zeros_like(seen)
        return seen
