"""Negatives: what failed runs said, paired with what was right where the same task tells.

Which step of a failed run was wrong is known where it leaves the road of a success or correction of the
same task: what it said there is rejected in favour of what was right there. Where nothing right is known,
the first call that failed stands for the mistake, else the last thing said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agentkd.compiler.turn import Standing, Turn, spoken, standing_before
from agentkd.schema import Message, Task, ToolSpec, Trajectory

__all__ = ["is_mere_failure", "with_negatives"]


def is_mere_failure(trajectory: Trajectory, n_corrections: int) -> bool:
    """Whether a run was judged a failure and nobody said what would have been right."""
    return trajectory.outcome is not None and not trajectory.success and not n_corrections


def with_negatives(
    positives: Sequence[Turn],
    failed: Sequence[Trajectory],
    tools_of: Callable[[Task], Sequence[ToolSpec]],
    dropped: Counter[str],
) -> list[Turn]:
    """Return the turns of one task, some with a rejected answer now, and the negatives that found no partner.

    A turn that has a rejected answer keeps it; of several wrong answers to one turn the most frequent is
    its partner, and the others stand alone.
    """
    roads: dict[Standing, list[int]] = {}
    for number, turn in enumerate(positives):
        roads.setdefault(standing_before(turn), []).append(number)
    wrongs: dict[tuple[Standing, str], list[Turn]] = {}
    for trajectory in failed:
        wrong = _first_wrong(trajectory, positives, roads, tools_of(trajectory.task))
        if wrong is None:
            dropped["failed without a wrong answer of its own"] += 1
        else:
            wrongs.setdefault((standing_before(wrong), wrong.target.content), []).append(wrong)
    turns, alone = list(positives), []
    for (before, _), same in sorted(wrongs.items(), key=lambda item: (-len(item[1]), item[0])):
        ids = tuple(turn.trajectory.id for turn in same)
        recalled = tuple(dict.fromkeys(id_ for turn in same for id_ in turn.recalled))
        free = [number for number in roads.get(before, ()) if turns[number].rejected is None]
        if free:
            right = turns[free[0]]
            sources = tuple(dict.fromkeys((*right.trajectories, *ids)))
            turns[free[0]] = replace(right, rejected=same[0].target, trajectories=sources, misled_by=recalled)
        else:
            alone.append(_lone(same[0], ids, recalled))
    return turns + alone


def _lone(wrong: Turn, ids: tuple[str, ...], recalled: tuple[str, ...]) -> Turn:
    empty = Message(role="assistant", origin="model")
    return replace(
        wrong, target=empty, rejected=wrong.target, trajectories=ids, misled_by=recalled, is_negative=True
    )


def _first_wrong(
    trajectory: Trajectory,
    positives: Sequence[Turn],
    roads: Mapping[Standing, Sequence[int]],
    tools: Sequence[ToolSpec],
) -> Turn | None:
    suspects: list[tuple[bool, Turn]] = []
    for turn, is_ok in spoken(trajectory, tools):
        right = [positives[number].target.content for number in roads.get(standing_before(turn), ())]
        if right and turn.target.content not in right:
            return turn
        if not right:
            suspects.append((is_ok, turn))
    return next((turn for is_ok, turn in suspects if not is_ok), suspects[-1][1] if suspects else None)
