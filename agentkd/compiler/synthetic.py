"""What a teacher wrote, on its way into rows: tied to its seeds, and never more than its share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from agentkd.compiler.split import TaskKey
from agentkd.compiler.turn import Turn
from agentkd.schema import Task, Trajectory, origin_of

__all__ = ["SEED_TASK", "beyond_share", "like_tasks", "with_sources"]

SEED_TASK = "seed_task"
"""Key of a synthetic task's `extras` that names the task of its seed."""


def like_tasks(task: Task) -> tuple[TaskKey, ...]:
    """Return the task that a synthetic one was made from: a split never comes between the two."""
    seed = task.extras.get(SEED_TASK) if task.is_synthetic else None
    return ((task.suite, str(seed)),) if seed else ()


def with_sources(turns: Iterable[Turn], trajectory: Trajectory) -> Iterator[Turn]:
    """Yield turns that rest on all that a teacher was shown when it wrote them; others as they are."""
    origin = origin_of(trajectory)
    for turn in turns:
        if origin is None:
            yield turn
        else:
            yield replace(turn, trajectories=(*turn.trajectories, *origin.seeds), recalled=origin.memories)


def beyond_share(
    n_turns: Mapping[TaskKey, int], written: Mapping[TaskKey, datetime], share: float
) -> frozenset[TaskKey]:
    """Return the written tasks that would take more than `share` of all turns, the oldest first.

    Without a turn of what really happened nothing that a teacher wrote is trained on.
    """
    real = sum(n for key, n in n_turns.items() if key not in written)
    room = int(real * share / (1.0 - share) + 1e-9)
    left_out = set()
    newest = sorted(written, key=lambda key: (-written[key].timestamp(), key))
    for key in newest:
        n = n_turns.get(key, 0)
        if n > room:
            left_out.add(key)
        else:
            room -= n
    return frozenset(left_out)
