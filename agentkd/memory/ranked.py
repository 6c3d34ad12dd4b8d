"""A store whose ranking stands still for the length of a run.

Every task that is graded moves the lift of the memories that it saw. Ranked by lifts that move, near equals
would change places with the order in which the tasks of a run happen to end: a run by four workers, or one
that was killed and resumed, would show its tasks other memories than an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.schema import Hit, Scope, Utility

if TYPE_CHECKING:
    from agentkd.memory.store import MemoryStore

__all__ = ["RankedBefore"]


class RankedBefore:
    """The recaller of a run: the store's memories and statuses of now, the counters of before its tasks."""

    def __init__(self, store: MemoryStore, utilities: Mapping[str, Utility]) -> None:
        """Wrap a store; `utilities` holds the counters of every memory that was ever withheld."""
        self._store = store
        self._utilities = utilities

    def recall(
        self,
        state: str,
        k: int | None = None,
        *,
        scope: Scope | None = None,
        checkpoint: str = "base",
        exclude: Iterable[str] = (),
    ) -> list[Hit]:
        """Return at most `k` hits for a state, best first: see `MemoryStore.recall`."""
        found = self._store.recall_many(
            [state], k, scope=scope, checkpoint=checkpoint, exclude=[exclude], utilities=self._utilities
        )
        return found[0]

    def render(self, hits: Sequence[Hit]) -> str:
        """Return the hits as notes for a prompt."""
        return self._store.render(hits)

    def fitting(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return the hits that `render` shows."""
        return self._store.fitting(hits)
