"""What is known of a candidate besides the evaluation that decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentkd.evaluate.contamination import Contamination
from agentkd.evaluate.hacking import Hacking
from agentkd.schema import Diagnosis, Evaluation, TransferCell, Value

if TYPE_CHECKING:
    from agentkd.hf.anchor import Anchors

__all__ = ["Evidence", "ExportParity", "RowAudit"]


class ExportParity(Value):
    """Whether a candidate, exported and read back, answers like the student."""

    shape: str
    """Shape of the export."""
    holds: bool
    """Whether it does."""
    agreement: float = 0.0
    """Least share of positions with the same most likely token, over all readers; 0 where it failed."""
    said: str = ""
    """Why it does not."""


class RowAudit(Value):
    """Training rows held against what they claim to rest on."""

    n_rows: int
    """Rows that the candidate and its ancestors were trained on."""
    n_grounded: int = 0
    """Rows that name runs or corrections of the ledger; written ones name none."""
    unfounded: tuple[str, ...] = ()
    """Rows whose target none of the runs and corrections that they name has."""
    n_regraded: int = 0
    """Rows of one turn whose target the suite's own grader could judge."""
    refuted: tuple[str, ...] = ()
    """Rows whose target that grader judges wrong."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate besides the evaluation that decides; None where it was not measured."""

    look: int = 1
    """How many candidates were judged since the last promotion, this one included."""
    n_candidates: int = 1
    """Candidates of the same cycle: each has its part of the chance to be promoted by luck (Bonferroni)."""
    contamination: Contamination | None = None
    """Tasks of the evaluation that stand in its training rows; the evaluation given is without them."""
    anchors: Anchors | None = None
    """How far it moved from its base on general texts."""
    earlier: tuple[Evaluation, ...] = ()
    """Candidate and what serves on the tasks of earlier cycles, one per suite and split."""
    transfer: tuple[TransferCell, ...] = ()
    """The candidate against what earlier cycles' candidates did when they were judged."""
    dev_losses: tuple[float, ...] = ()
    """Loss on the rows kept back, after each epoch."""
    hacking: Hacking | None = None
    """What the course of its training says about teacher hacking."""
    rows: RowAudit | None = None
    """Its training rows against their evidence."""
    exports: tuple[ExportParity, ...] = ()
    """Its exports against itself."""
    diagnoses: tuple[Diagnosis, ...] = ()
    """What the evaluators found."""
