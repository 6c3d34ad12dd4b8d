"""The dev part of `quality.py`: the training split of a suite cut in two by group; a plugin."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, NoSettings
from agentkd.protocols import Suite
from agentkd.schema import Task

__all__ = ["Fold", "FoldPlugin"]


class FoldPlugin:
    """Offers the dev part of a suite as the suite `<name>-dev`."""

    def __init__(self, suite: str, n_held: int, seed: int) -> None:
        self._suite, self._n_held, self._seed = suite, n_held, seed

    @hookimpl
    def components(self) -> Iterator[Component]:
        """Offer it."""
        yield Component("suite", f"{self._suite}-dev", "To choose settings on.", self._build, NoSettings)

    def _build(self, settings: NoSettings, kit: Any) -> Fold:
        return Fold(kit.suite(self._suite), self._n_held, self._seed)


class Fold:
    """A suite whose training split is cut in two: tasks to learn from, and tasks to choose settings on."""

    def __init__(self, suite: Suite, n_held: int, seed: int) -> None:
        self._suite, self.name = suite, f"{suite.name}-dev"
        groups: dict[str, list[Task]] = {}
        for known in suite.tasks("train"):
            task = known.model_copy(update={"suite": self.name})
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
