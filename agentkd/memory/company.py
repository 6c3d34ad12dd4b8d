"""What memories are worth beside those that can be recalled today.

Withheld alone, a memory is not missed where another one stands in for it: of two that do the same each looks
useless. Once one has left, what was measured beside it says nothing of the other, which is measured anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agentkd.memory.lift import priors_of
from agentkd.memory.scope import partition_of
from agentkd.schema import Lift, Memory, Use, Utility, lift_of

__all__ = ["Company"]


class Company:
    """Judges memories by the tasks whose other memories can all still be recalled."""

    def __init__(self, memories: Sequence[Memory], *, level: float, band: float, strength: float) -> None:
        """Begin with nobody gone; the arguments are those of `lifts_of`."""
        self.gone: set[str] = set()
        """Ids of memories that leave now, and that the ledger still counts as present."""
        self._priors = priors_of(memories, strength)
        self._level, self._band = level, band

    def lift(self, memory: Memory, uses: Iterable[Use]) -> Lift:
        """Return the lift of a memory over those of its tasks that were in the company of now.

        Counts that no task here stands for, such as imported ones, are kept.
        """
        past = [use for use in uses if use.is_past or not self.gone.isdisjoint(use.beside)]
        utility = memory.utility.model_copy(update=_less(memory.utility, past))
        prior = self._priors[partition_of(memory.scope)]
        return lift_of(utility, prior, level=self._level, band=self._band)


def _less(utility: Utility, past: Sequence[Use]) -> Mapping[str, int]:
    shown = [use.win for use in past if not use.withheld]
    withheld = [use.win for use in past if use.withheld]
    counts = {
        "recalls": len(shown),
        "wins": sum(shown),
        "held_out": len(withheld),
        "held_out_wins": sum(withheld),
    }
    return {name: max(0, getattr(utility, name) - n) for name, n in counts.items()}
