"""What `teaching.py` makes, one cell per world, seed and arm, and the figures of all cells of a world."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from measure import Row, above

from agentkd.evaluate.statistics import paired_bootstrap

__all__ = ["ARMS", "Cell", "Plan", "mean", "rows_of"]

ARMS = ("tailored", "random")


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    n_ground: int
    n_exam: int
    n_items: int
    """Items per round."""
    n_final: int
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rounds: int = 3
    final: str = "holdout"
    n_known: int = 4
    """Habits of the desk that the ground truth covers."""

    def sizes(self) -> dict[str, Any]:
        """Return what a suite is cut by."""
        return {name: getattr(self, name) for name in ("n_ground", "n_exam", "n_final", "final")}


@dataclass
class Cell:
    """What one (world, seed, arm) gave."""

    world: str
    seed: int
    arm: str
    key: str
    tasks: list[str]
    success: list[float]
    exams: list[float]
    items: list[int]
    rows: list[int]
    teacher_tokens: float
    tools: dict[str, int]
    cpu_seconds: float
    n_asked: int = 0
    """Items that were asked for about the last report, refused ones included."""


def rows_of(cells: Mapping[tuple[int, str], Cell], world: str, plan: Plan, *, has_bars: bool) -> list[Row]:
    """Return the figures: both arms, their paired difference, exams and costs."""
    seeds = sorted({seed for seed, _ in cells if all((seed, arm) in cells for arm in ARMS)})
    rows: list[Row] = []
    if not seeds:
        return rows
    n, split = sum(len(cells[seed, "tailored"].success) for seed in seeds), f"{world}, {plan.final}"
    for arm in ARMS:
        done = [value for seed in seeds for value in cells[seed, arm].success]
        rows.append(Row(f"{split}: {arm}, whole call right ({len(seeds)} seeds)", sum(done) / n, n=n))
    by_task: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        ours, other = cells[seed, "tailored"], cells[seed, "random"]
        for task, a, b in zip(ours.tasks, ours.success, other.success, strict=True):
            by_task[task].append(a - b)
    value, low, high = _clustered(by_task)
    title = f"{split}: tailored minus random, paired ({len(seeds)} seeds)"
    if has_bars:
        rows.append(above(title, value, low, 0.0, high=high, n=n))
    else:
        rows.append(Row(title, value, low=low, high=high, n=n))
    per_seed = [mean(cells[seed, "tailored"].success) - mean(cells[seed, "random"].success) for seed in seeds]
    over = paired_bootstrap(per_seed, [0.0] * len(per_seed))
    title = f"{world}: the same, drawn over seeds"
    rows.append(Row(title, over.value, low=over.low, high=over.high, n=len(seeds)))
    for number in range(plan.rounds):
        exams = [cells[seed, "tailored"].exams[number] for seed in seeds]
        rows.append(Row(f"{world}: exam before round {number + 1}, tailored", mean(exams), n=len(seeds)))
    for arm in ARMS:
        spent = [cells[seed, arm] for seed in seeds]
        rows.append(Row(f"{world}, {arm}: items per seed", mean([float(sum(cell.items)) for cell in spent])))
        rows.append(
            Row(f"{world}, {arm}: teacher tokens per seed", mean([cell.teacher_tokens for cell in spent]))
        )
        rows.append(Row(f"{world}, {arm}: CPU seconds per seed", mean([cell.cpu_seconds for cell in spent])))
    return rows


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)


def _clustered(by_task: Mapping[str, Sequence[float]]) -> tuple[float, float, float]:
    """Return mean and 95 % interval; a task that several seeds drew is drawn with all its differences."""
    tasks = sorted(by_task)
    generator = random.Random(0)
    means = []
    for _ in range(4000):
        drawn = [d for task in generator.choices(tasks, k=len(tasks)) for d in by_task[task]]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    whole = [d for task in tasks for d in by_task[task]]
    return mean(whole), means[100], means[3899]
