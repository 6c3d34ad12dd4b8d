"""What memories are worth beside those that can be recalled today.

Withheld alone, a memory is not missed where another one stands in for it: of two that do the same each looks
useless. Once one has left, what was measured beside it says nothing of the other, which is measured anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agentkd.memory.lift import priors_of
from agentkd.memory.scope import partition_of
from agentkd.memory.status import RECALLED
from agentkd.schema import Lift, Memory, Use, Utility, lift_of

__all__ = ["Company"]


class Company:
    """Judges memories by the tasks whose other memories can all still be recalled."""

    def __init__(self, memories: Sequence[Memory], *, level: float, band: float, strength: float) -> None:
        """Begin with what is recalled; the arguments are those of `lifts_of`."""
        self._present = {memory.id for memory in memories if memory.status in RECALLED}
        self._priors = priors_of(memories, strength)
        self._level, self._band = level, band

    def without(self, memory_id: str) -> None:
        """Note that a memory leaves."""
        self._present.discard(memory_id)

    def lift(self, memory: Memory, uses: Iterable[Use]) -> Lift:
        """Return the lift of a memory over those of its tasks that were in the company of now.

        Counts that no task here stands for, such as imported ones, are kept.
        """
        gone = [use for use in uses if not use.beside <= self._present]
        utility = memory.utility.model_copy(update=_less(memory.utility, gone))
        prior = self._priors[partition_of(memory.scope)]
        return lift_of(utility, prior, level=self._level, band=self._band)


def _less(utility: Utility, gone: Sequence[Use]) -> Mapping[str, int]:
    shown = [use.win for use in gone if not use.withheld]
    withheld = [use.win for use in gone if use.withheld]
    counts = {
        "recalls": len(shown),
        "wins": sum(shown),
        "held_out": len(withheld),
        "held_out_wins": sum(withheld),
    }
    return {name: max(0, getattr(utility, name) - n) for name, n in counts.items()}
