"""The world of `gate.py`: requests of `bfcl-live`'s training split for four tools, cut in two by group.

The part that is measured is called `holdout` because nothing may be learnt from it. It is no part of the
suite's own holdout, which no setting of this benchmark has ever seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentkd_bfcl.suite import BfclLive, SingleCall

from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, NoSettings
from agentkd.protocols import Baseline, Kit
from agentkd.schema import Outcome, Task, ToolCall, Trajectory

__all__ = ["NAME", "N_EVAL", "GateTasks", "components"]

__version__ = "0"
NAME = "gate-tasks"
TOOLS = frozenset(
    {"Events_3_FindEvents", "Movies_3_FindMovies", "Music_3_LookupMusic", "Weather_1_GetWeather"}
)
N_HELD, N_EVAL = 100, 60
SEED = 5


class GateTasks:
    """Requests for one call of four tools: enough of each that a short training teaches something."""

    name = NAME

    def __init__(self, suite: BfclLive) -> None:
        self._suite = suite
        groups: dict[str, list[Task]] = {}
        for task in suite.tasks("train"):
            if self.answer(task).name in TOOLS:
                groups.setdefault(task.group or task.id, []).append(task)
        order = sorted(groups)
        random.Random(SEED).shuffle(order)
        self._splits: dict[str, list[Task]] = {"train": [], "holdout": []}
        for group in order:
            is_held = len(self._splits["holdout"]) < N_HELD and len(groups[group]) <= 3
            split = "holdout" if is_held else "train"
            changes = {"split": split, "suite": NAME}
            self._splits[split] += [task.model_copy(update=changes) for task in groups[group]]

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {name: len(tasks) for name, tasks in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return a split, or its first `n` tasks: its order is random already."""
        return tuple(self._splits[split][:n])

    def environment(self, task: Task) -> SingleCall:
        """Make the world of a task: the four tools, for one call."""
        tools = self._suite.environment(task).tools
        return SingleCall([tool for tool in tools if tool.name in TOOLS])

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge the call; what is right is told for the part to learn from alone."""
        outcome = self._suite.grade(trajectory)
        if not trajectory.task.is_held_out:
            return outcome
        return outcome.model_copy(update={"expected": (), "expected_answer": ""})

    def answer(self, task: Task) -> ToolCall:
        """Return the accepted call of any task, for those who plant leaks."""
        return self._suite.grade(Trajectory(id="", run_id="", task=task)).expected[0]

    def baselines(self, train: Sequence[Task], kit: Kit) -> Sequence[Baseline]:
        """Return nothing: candidates are compared with what serves."""
        return ()


@hookimpl
def components() -> Iterable[Component[Any]]:
    """Offer the suite."""
    yield Component(
        "suite", NAME, "Four tools of bfcl-live.",
        lambda settings, kit: GateTasks(kit.suite("bfcl-live")), NoSettings,
    )  # fmt: skip
