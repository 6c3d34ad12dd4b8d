"""Which attempts are studied, and which are compared with which.

Hard pairs are the best success and the worst failure of one task. Soft pairs serve tasks that have one side
only: the other side comes from the task of the same suite whose request is nearest in meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.protocols import Embedder
from agentkd.schema import Trajectory

__all__ = ["best_successes", "hard_pairs", "reward_of", "soft_pairs", "worst_failures"]

Pair = tuple[Trajectory, ...]


def best_successes(trajectories: Sequence[Trajectory]) -> list[Pair]:
    """Return the best successful attempt of each task."""
    return [(best,) for best, _ in _extremes(trajectories) if best is not None]


def worst_failures(trajectories: Sequence[Trajectory]) -> list[Pair]:
    """Return the worst failed attempt of each task; an ungraded run counts where it broke off."""
    return [(worst,) for _, worst in _extremes(trajectories) if worst is not None]


def hard_pairs(trajectories: Sequence[Trajectory]) -> list[Pair]:
    """Return the best success and the worst failure of each task that has both."""
    return [(best, worst) for best, worst in _extremes(trajectories) if best and worst]


def soft_pairs(trajectories: Sequence[Trajectory], embedder: Embedder, above: float) -> list[Pair]:
    """Return (success, failure) for tasks that have only one of them, the other from the nearest task.

    Args:
        trajectories: Attempts of all tasks.
        embedder: Compares the requests.
        above: Least cosine similarity of the two requests.
    """
    extremes = _extremes(trajectories)
    lone = [(best, worst) for best, worst in extremes if (best is None) != (worst is None)]
    successes = [best for best, _ in extremes if best is not None]
    failures = [worst for _, worst in extremes if worst is not None]
    known = [*successes, *failures]
    if not lone or not successes or not failures:
        return []
    vectors = dict(zip((t.id for t in known), embedder.embed([t.task.prompt for t in known]), strict=True))
    pairs: dict[tuple[str, str], Pair] = {}
    for best, worst in lone:
        mine, others = (best, failures) if best is not None else (worst, successes)
        assert mine is not None
        scored = [
            (float(vectors[mine.id] @ vectors[other.id]), other)
            for other in others
            if other.task.suite == mine.task.suite
        ]
        score, other = max(scored, key=lambda pair: pair[0], default=(-1.0, mine))
        if score >= above:
            pair = (mine, other) if best is not None else (other, mine)
            pairs.setdefault((pair[0].id, pair[1].id), pair)
    return list(pairs.values())


def reward_of(trajectory: Trajectory) -> float:
    """Return the reward of a run; 0 while it is ungraded."""
    return trajectory.outcome.reward if trajectory.outcome is not None else 0.0


def _extremes(trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory | None, Trajectory | None]]:
    tasks: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in trajectories:
        tasks.setdefault((trajectory.task.suite, trajectory.task.id), []).append(trajectory)
    pairs = []
    for _, attempts in sorted(tasks.items()):
        ordered = sorted(attempts, key=lambda t: (-reward_of(t), len(t.steps), t.attempt))
        done = [t for t in ordered if t.success]
        failed = [t for t in ordered if not t.success and (t.outcome is not None or t.failure is not None)]
        pairs.append((done[0] if done else None, failed[-1] if failed else None))
    return pairs
