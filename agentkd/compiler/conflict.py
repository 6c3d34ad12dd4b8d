"""Answers that are right in one run of a task and wrong in another: the weightier word stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from agentkd.compiler.correction import SAY, SUCCESS
from agentkd.compiler.turn import Turn, standing_before

__all__ = ["without_overruled"]


def without_overruled(turns: Sequence[Turn], dropped: Counter[str]) -> Sequence[Turn]:
    """Return the turns of one task of which no target is rejected after the same words.

    A person outweighs a grader, a grader a run's success, a success a judge, and a judge a tool. A target
    that a weightier word rejects is left out; else the rejected answer is.
    """
    rejecting = [turn for turn in turns if turn.rejected is not None]
    if not rejecting:
        return turns
    against: dict[object, int] = {}
    for turn in rejecting:
        wrong = _wrong(turn)
        against[wrong] = max(against.get(wrong, 0), _weight(turn))
    kept = [turn for turn in turns if against.get(_right(turn), -1) <= _weight(turn)]
    dropped["a weightier word rejects it"] += len(turns) - len(kept)
    right = {_right(turn) for turn in kept}
    return [replace(turn, rejected=None) if _wrong(turn) in right else turn for turn in kept]


def _right(turn: Turn) -> object:
    return standing_before(turn), turn.target.content


def _wrong(turn: Turn) -> object:
    return None if turn.rejected is None else (standing_before(turn), turn.rejected.content)


def _weight(turn: Turn) -> int:
    return SAY.get(turn.teacher, SUCCESS) if turn.is_correction else SUCCESS
