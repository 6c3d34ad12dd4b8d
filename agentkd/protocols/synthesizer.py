"""The promise of a synthesizer: it lets a teacher write what a student lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentkd.schema import Budget, Memory, StudentReport, Synthetic, Trajectory, Unusable

if TYPE_CHECKING:
    from agentkd.protocols import Model

__all__ = ["Synthesizer"]


@runtime_checkable
class Synthesizer(Protocol):
    """Turns what a student got wrong into items for it; what it yields is checked before it becomes a row."""

    name: str

    def synthesize(
        self,
        seeds: Sequence[Trajectory],
        teacher: Model,
        student_report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterable[Synthetic | Unusable]:
        """Yield at most `budget.items` items, and every answer of the teacher that gave none.

        Args:
            seeds: Graded runs of the student on training-side tasks, with the tools of their tasks.
            teacher: Who writes. It keeps its answers, so the same question costs nothing a second time:
                ask in an order that depends on the arguments alone.
            student_report: What the student can and cannot do; a control ignores it.
            memories: Lessons that may be shown, by id of the seed.
            budget: How much to write. A BudgetError of the teacher ends it; what was yielded is kept.
        """
