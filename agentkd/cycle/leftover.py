"""What the memories that failed their certificates do together, where they stand beside the student.

Each certificate asks whether the student still needs one memory for the requests of that memory. It cannot
see that notes beside weights turn a student away from what it learnt: students are trained without them. So
the requests are asked once more as new ones, with those notes and without; notes that harm leave as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentkd.cycle.parts import Parts
from agentkd.cycle.probe import AsServed, Serving, TaskKey, by_suite, key_of, replay
from agentkd.evaluate.statistics import mcnemar_p
from agentkd.schema import Task, Trajectory, Usage, Value

__all__ = ["Together", "together"]


class Together(Value):
    """Requests answered with the memories that would stay and without them, pair by pair."""

    n: int = 0
    """Requests that would show one of them, though none that rests on the request itself."""
    done_with: int = 0
    """Those that the student does with them."""
    done_without: int = 0
    """Those that it does without them."""
    wins: int = 0
    """Done with them only."""
    losses: int = 0
    """Done without them only."""
    p_value: float = 1.0
    """Two-sided, of the exact McNemar test."""
    is_harmful: bool = False
    """Whether the student is credibly worse with them."""


def together(
    parts: Parts,
    key: str,
    candidate: str,
    tasks: Sequence[Task],
    *,
    stay: Collection[str],
    leave: Collection[str],
    held: Collection[str],
) -> tuple[Together, Usage]:
    """Measure on a student's requests what the memories that would stay do to it.

    A request is asked as a new one is: memories that rest on it are not shown, and the places of memories
    that leave stay empty. Returns the figures, and what the replays cost.

    Args:
        parts: The workspace.
        key: Of the phase: what was replayed under it is not run again.
        candidate: The student.
        tasks: The requests, out of the training side.
        stay: Memories that would stay in its context.
        leave: Memories that leave it in any case.
        held: All memories that are judged: their statuses so far do not count, so that a phase that was cut
            off comes to the same end.
    """
    statuses = parts.ledger.memories.status_for(candidate)
    away = {id_ for id_, status in statuses.items() if status == "retired"} - set(held) | set(leave)
    own = _resting_on(parts, tasks)
    shown, alone = AsServed(away, own), AsServed({*away, *stay}, own)
    touched = _touched(parts, candidate, tasks, shown, set(stay))
    sides: list[dict[TaskKey, Trajectory]] = [
        replay(parts, touched, f"agentkd/{candidate}", withheld=side, occasion=key, label=label)
        for side, label in ((shown, "probe as served"), (alone, "probe without what stays"))
    ]
    with_, without = ([side[key_of(task)].success is True for task in touched] for side in sides)
    pairs = list(zip(with_, without, strict=True))
    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    p_value = mcnemar_p(wins, losses)
    found = Together(
        n=len(pairs),
        done_with=sum(with_),
        done_without=sum(without),
        wins=wins,
        losses=losses,
        p_value=p_value,
        is_harmful=losses > wins and p_value < parts.settings.retire.alpha,
    )
    usage = sum((t.usage for side in sides for t in side.values()), Usage(usd=0.0))
    return found, usage


def _resting_on(parts: Parts, tasks: Sequence[Task]) -> dict[str, frozenset[str]]:
    """Return the memories that rest on each request, by its text."""
    prompts = {key_of(task): task.prompt for task in tasks}
    asked = {
        trajectory_id: prompts[suite, task_id]
        for name in sorted({task.suite for task in tasks})
        for suite, task_id, trajectory_id, _ in parts.ledger.trajectories.keys(name)
        if (suite, task_id) in prompts
    }
    found: dict[str, set[str]] = {prompt: set() for prompt in prompts.values()}
    for memory in parts.ledger.memories.list():
        for trajectory_id in memory.evidence.trajectories:
            if trajectory_id in asked:
                found[asked[trajectory_id]].add(memory.id)
    return {prompt: frozenset(ids) for prompt, ids in found.items()}


def _touched(
    parts: Parts, candidate: str, tasks: Sequence[Task], shown: AsServed, stay: Collection[str]
) -> list[Task]:
    """Return the requests whose prompts would show a memory that stays: others are answered alike."""
    found, serving = [], Serving(parts.memory, shown)
    for suite, group in by_suite(tasks):
        scope = parts.settings.memory.scope.of_suite(suite)
        every = serving.recall_many([task.prompt for task in group], scope=scope, checkpoint=candidate)
        shows = zip(group, every, strict=True)
        found += [task for task, hits in shows if any(hit.memory.id in stay for hit in hits)]
    return found
