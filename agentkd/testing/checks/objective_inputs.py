"""Random inputs for the checks of objectives: chunks of labels and spans, in any float type."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Positions", "SpanSet", "random_positions", "random_spans"]

_N, _VOCABULARY, _TOP_K, _WIDTH = 8, 13, 4, 16
_TEACHER_TOKENS = {"teacher-top-k", "teacher-sorted", "teacher-hidden"}
_PER_LABEL = {
    "logits", "targets", "weights", "rows", "teacher_top_ids", "teacher_top_log_probs", "hidden",
    "teacher_hidden", "reference_loss",
}  # fmt: skip


@dataclass
class Positions:
    """One chunk of label positions; see `protocols.StepContext`."""

    logits: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    normaliser: float
    rows: torch.Tensor
    teacher_top_ids: torch.Tensor | None = None
    teacher_top_log_probs: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    teacher_hidden: torch.Tensor | None = None
    reference_loss: torch.Tensor | None = None
    step: int = 0
    n_steps: int = 10

    def leaves(self) -> list[torch.Tensor]:
        """Return what the loss may be differentiated by."""
        return [leaf for leaf in (self.logits, self.hidden) if leaf is not None]

    def with_leaves(self, leaves: list[torch.Tensor]) -> Positions:
        """Return the same positions with other student outputs."""
        return replace(self, logits=leaves[0], hidden=leaves[1] if len(leaves) > 1 else None)

    def part(self, start: int, end: int) -> Positions:
        """Return the chunk of some positions."""
        cut: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _PER_LABEL and value is not None:
                cut[field.name] = value[start:end]
        return replace(self, **cut)

    def borders(self) -> list[int]:
        """Return where rows begin, and the end."""
        rows = self.rows.tolist()
        return [n for n, row in enumerate(rows) if n == 0 or rows[n - 1] != row] + [len(rows)]


@dataclass
class SpanSet:
    """The spans of a pack; see `protocols.SpanContext`."""

    n_labels: torch.Tensor
    weights: torch.Tensor
    pair: torch.Tensor
    is_rejected: torch.Tensor
    log_q_reference: torch.Tensor | None
    log_p: torch.Tensor | None
    normaliser: float
    step: int = 0
    n_steps: int = 10

    def part(self, places: list[int]) -> SpanSet:
        """Return some of the spans, in that order, with their pairs numbered anew."""
        kept: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[places]
            for name in ("n_labels", "weights", "is_rejected", "log_q_reference", "log_p")
        }
        numbers: dict[int, int] = {-1: -1}
        pair = self.pair[places].clone()
        for place, number in enumerate(pair.tolist()):
            pair[place] = numbers.setdefault(number, len(numbers) - 1)
        return replace(self, pair=pair, **kept)


def random_positions(requires: frozenset[str], seed: int, dtype: Any = None, k: int = _TOP_K) -> Positions:
    """Return eight positions of three rows, two of them without weight, and what `requires` asks for."""
    import torch

    dtype = dtype or torch.float32
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weights = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 2.0, 1.0], dtype=dtype)
    positions = Positions(
        logits=noise(_N, _VOCABULARY).requires_grad_(),
        targets=torch.randint(_VOCABULARY, (_N,), generator=generator),
        weights=weights,
        normaliser=float(weights.sum()) * 2,  # as if another chunk of the step weighed as much
        rows=torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]),
    )
    if requires & _TEACHER_TOKENS:
        top = noise(_N, _VOCABULARY).log_softmax(-1).topk(k, dim=-1)
        positions.teacher_top_ids, positions.teacher_top_log_probs = top.indices, top.values
    if "teacher-hidden" in requires:
        positions.hidden, positions.teacher_hidden = noise(_N, _WIDTH).requires_grad_(), noise(_N, _WIDTH)
    if "reference" in requires:
        positions.reference_loss = noise(_N).abs()
    return positions


def random_spans(requires: frozenset[str], seed: int, dtype: Any = None) -> tuple[torch.Tensor, SpanSet]:
    """Return log-probabilities of nine spans and what a loss on them sees.

    They are four pairs, one of them without weight, and a rejected completion alone; for aligned stretches
    nine without a partner.
    """
    import torch

    dtype = dtype or torch.float64
    generator = torch.Generator().manual_seed(seed)
    m = 9
    log_q = -4 * torch.rand(m, generator=generator, dtype=dtype) - 0.5
    is_paired = "rejected" in requires
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 2.0, 2.0, 0.5, 0.5, 1.0], dtype=dtype)
    pair = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, -1]) if is_paired else torch.full((m,), -1)
    spans = SpanSet(
        n_labels=torch.tensor([3.0, 5.0, 2.0, 2.0, 7.0, 1.0, 4.0, 6.0, 3.0], dtype=dtype),
        weights=weights,
        pair=pair,
        is_rejected=torch.tensor([False, True] * 4 + [True]) if is_paired else torch.zeros(m).bool(),
        log_q_reference=log_q - torch.randn(m, generator=generator, dtype=dtype)
        if "reference" in requires
        else None,
        log_p=-4 * torch.rand(m, generator=generator, dtype=dtype) - 0.1
        if "teacher-spans" in requires
        else None,
        normaliser=float(weights.sum()),
    )
    return log_q.requires_grad_(), spans
