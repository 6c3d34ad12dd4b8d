"""A desk whose grader decides by rule: the student is right where the rule says so, the base never is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import agentkd
from agentkd.plugins import NoSettings
from agentkd.schema import Outcome, Task, ToolCall, ToolSpec, Trajectory
from agentkd.testing import FakeSuite

N_TRAIN, N_HELD_OUT = 12, 10
NEVER, WITH_MEMORY = 1, 2
"""Remainders by 4 of the numbers of requests that the student never does, or only with memories."""

TOOL = ToolSpec(
    name="stamp",
    description="Stamp a form.",
    parameters={
        "type": "object",
        "properties": {"form": {"type": "string", "maxLength": 8}},
        "required": ["form"],
    },
)
COLOURS = ("red", "blue", "green", "black", "white", "amber", "pink", "grey", "gold", "teal", "lime", "navy")


class Desk(FakeSuite):
    """Asks for forms; which of them the student gets right is a rule of the number of the request."""

    def __init__(self, *, notes_harm: bool = False) -> None:
        self.notes_harm = notes_harm

        def requests(verb: str, n: int) -> list[tuple[str, ToolCall]]:
            return [
                (f"{verb} the {COLOURS[i]} form", ToolCall(name="stamp", arguments={"form": COLOURS[i]}))
                for i in range(n)
            ]

        by_split = {"train": requests("Stamp", N_TRAIN), "holdout": requests("Please stamp", N_HELD_OUT)}
        super().__init__(by_split, tools=[TOOL], name="desk")

    def grade(self, trajectory: Trajectory) -> Outcome:
        outcome = super().grade(trajectory)
        done = "@student" in trajectory.model and self._is_done(trajectory)
        return outcome.model_copy(update={"success": done, "reward": float(done)})

    def _is_done(self, trajectory: Trajectory) -> bool:
        if trajectory.task.id.startswith("holdout"):
            return True
        if self.notes_harm and trajectory.recalled:
            return False
        rule = number_of(trajectory.task) % 4
        return rule != NEVER and (rule != WITH_MEMORY or bool(trajectory.recalled))


def number_of(task: Task) -> int:
    return int(task.id.rpartition("-")[2])


class Plugin:
    """Offers the desk, and keeps one memory in the context whatever its probes say."""

    def __init__(self, kept: str = "", *, notes_harm: bool = False) -> None:
        self.kept = kept
        self.notes_harm = notes_harm

    @agentkd.hookimpl
    def components(self) -> Iterator[Any]:
        desk = Desk(notes_harm=self.notes_harm)
        yield agentkd.Component("suite", "desk", "Forms to stamp.", lambda settings, kit: desk, NoSettings)

    @agentkd.hookimpl
    def retire_memory(self, memory: Any) -> bool | None:
        return False if self.kept and self.kept in memory.when_to_use else None


SETTINGS: dict[str, Any] = {
    "cycle": {"suite": "desk", "min_new_memories": 1},
    "train": {"epochs": 1},
    "evaluate": {"bootstrap": 200},
    "place": {"max_clusters": 0},
    "gate": {
        "anchors": False,
        "min_tasks": 5,
        "max_dev_rise": 9.0,
        "contamination": "off",
        "exports": [],
        "row_checks": False,
    },
}
