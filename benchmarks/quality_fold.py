"""The dev part of `quality.py`: a suite whose training split is cut in two by near-duplicate group."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from agentkd.protocols import Suite
from agentkd.schema import Task

__all__ = ["Fold"]


class Fold:
    """A suite whose training split is cut in two: tasks to learn from, and tasks to choose settings on."""

    def __init__(self, suite: Suite, n_held: int, seed: int) -> None:
        self._suite, self.name = suite, suite.name
        groups: dict[str, list[Task]] = {}
        for task in suite.tasks("train"):
            groups.setdefault(task.group or task.id, []).append(task)
        order = sorted(groups)
        random.Random(f"dev-{seed}").shuffle(order)
        dev: list[Task] = []
        rest: list[Task] = []
        for name in order:
            (dev if len(dev) < n_held and len(groups[name]) <= 3 else rest).extend(groups[name])
        random.Random(seed).shuffle(rest)
        held = [task.model_copy(update={"split": "holdout-dev"}) for task in dev]
        self._splits = {"train": tuple(rest), "holdout-dev": tuple(held)}

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {name: len(tasks) for name, tasks in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the first tasks of a split."""
        return self._splits[split][:n]

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return self._suite.environment(task)

    def grade(self, trajectory: Any) -> Any:
        """Judge a trajectory; what is held back here tells no answer either."""
        outcome = self._suite.grade(trajectory)
        if not trajectory.task.is_held_out:
            return outcome
        return outcome.model_copy(update={"expected": (), "expected_answer": ""})

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return nothing: settings are compared with each other."""
        return ()
