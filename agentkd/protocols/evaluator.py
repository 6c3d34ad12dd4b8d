"""PROMISES: what an evaluator must do, and what it sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentkd.schema import Diagnosis, Evaluation, Example, Trajectory

if TYPE_CHECKING:
    from agentkd.protocols import Kit

__all__ = ["Comparison", "Evaluator"]


class Comparison(Protocol):
    """A candidate beside what serves and their base: what an evaluator may look at."""

    @property
    def evaluation(self) -> Evaluation:
        """All arms on the split that decides; the candidate is the arm `student`."""

    @property
    def serving(self) -> str:
        """What serves now: `base` or a checkpoint."""

    @property
    def base(self) -> Path:
        """Folder of the base model."""

    @property
    def before(self) -> Path | None:
        """Adapter of what serves; None where the base does."""

    @property
    def after(self) -> Path:
        """Adapter of the candidate."""

    def rows(self, split: str) -> Iterator[Example]:
        """Yield the rows that it was trained on (`train`), or those kept back (`dev`)."""

    def trajectories(self, arm: str) -> Sequence[Trajectory]:
        """Return what an arm did on the tasks of the evaluation; empty for an arm that did not run."""


@runtime_checkable
class Evaluator(Protocol):
    """Looks at a candidate from one side; what it flags forbids to promote."""

    name: str

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Return figures and flags; a side that cannot be seen gives a note and no figures."""
