"""Answers that are right in one run of a task and wrong in another: the weightier word stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from agentkd.compiler.correction import SAY, SUCCESS
from agentkd.compiler.turn import Standing, Turn, standing_before

__all__ = ["without_overruled"]


def without_overruled(turns: Sequence[Turn], dropped: Counter[str]) -> Sequence[Turn]:
    """Return the turns of one task of which no target is rejected after the same words.

    A person outweighs a grader, a grader a run's success, a success a judge, and a judge a tool. A target
    that a weightier word rejects is left out; else the rejected answer is.
    """
    if all(turn.rejected is None for turn in turns):
        return turns
    places = [standing_before(turn) for turn in turns]
    against: dict[tuple[Standing, str], int] = {}
    for place, turn in zip(places, turns, strict=True):
        if turn.rejected is not None:
            wrong = place, turn.rejected.content
            against[wrong] = max(against.get(wrong, 0), _weight(turn))
    pairs = zip(places, turns, strict=True)
    kept = [(p, turn) for p, turn in pairs if against.get((p, turn.target.content), -1) <= _weight(turn)]
    dropped["a weightier word rejects it"] += len(turns) - len(kept)
    right = {(place, turn.target.content) for place, turn in kept}
    return [
        replace(turn, rejected=None) if turn.rejected and (place, turn.rejected.content) in right else turn
        for place, turn in kept
    ]


def _weight(turn: Turn) -> int:
    return SAY.get(turn.teacher, SUCCESS) if turn.is_correction else SUCCESS
