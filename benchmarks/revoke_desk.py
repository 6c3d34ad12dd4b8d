"""The world of `revoke.py`: real requests of `bfcl-live`, parcels, and a person with a wrong habit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import agentkd
from agentkd.plugins import NoSettings
from agentkd.schema import Outcome, PhaseReport, Task, ToolCall, ToolResult, ToolSpec, Trajectory

__all__ = ["HABIT_SPLIT", "INSTEAD", "Person", "habit", "is_parcel", "said"]

HABIT_SPLIT = "holdout-habit"
THINGS = ("lamp", "vase", "chair", "mirror", "kettle", "clock", "radio", "bowl", "frame", "mug",
          "table", "shelf", "phone", "plate", "jar", "fan", "desk", "scale", "globe", "drum")  # fmt: skip
NEW = ("My {thing} from order {order} is damaged, please help",)
TAUGHT = "The {thing} in order {order} arrived broken, what now?"
INSTEAD = 'Call escalate with department "claims" for the order.'
_ORDER = {"type": "string", "maxLength": 8}


def tool(name: str, what: str, field: str, values: Sequence[str]) -> ToolSpec:
    """Return a tool of the desk."""
    properties = {"order": _ORDER, field: {"type": "string", "enum": list(values)}}
    return ToolSpec(
        name=name, description=what,
        parameters={"type": "object", "properties": properties, "required": ["order", field]},
    )  # fmt: skip


TOOLS = (
    tool("refund", "Pay money back for an order.", "amount", ("none", "half", "full")),
    tool("escalate", "Hand an order over to a department.", "department", ("claims", "sales")),
    tool("track", "Tell where the parcel of an order is.", "detail", ("short", "long")),
)


class Desk:
    """Requests of `bfcl-live`, and requests about damaged parcels; see the module."""

    name = "parcels"

    def __init__(self, inner: Any, n_train: int, n_held_out: int) -> None:
        self._inner = inner
        taught = [self._parcel(i, "train", TAUGHT) for i in range(10)]
        self._splits = {
            "train": (*self._real("train", n_train), *taught),
            "holdout": self._real("holdout", n_held_out),
            HABIT_SPLIT: tuple(self._parcel(i, HABIT_SPLIT, NEW[0]) for i in range(10, 20)),
        }

    def _real(self, split: str, n: int) -> tuple[Task, ...]:
        return tuple(task.model_copy(update={"suite": self.name}) for task in self._inner.tasks(split, n, 0))

    def _parcel(self, number: int, split: str, text: str) -> Task:
        order = f"{'ABCDEFGHIJ'[number % 10]}-{137 + 61 * number}"
        prompt = text.format(thing=THINGS[number], order=order)
        return Task(
            id=f"parcel-{number}", suite=self.name, split=split, prompt=prompt, tools=TOOLS,
            group=f"parcel-{number}", extras={"order": order},
        )  # fmt: skip

    def splits(self) -> Mapping[str, int]:
        """Return the number of tasks per split."""
        return {name: len(tasks) for name, tasks in self._splits.items()}

    def tasks(self, split: str, n: int | None = None, seed: int = 0) -> Sequence[Task]:
        """Return the first tasks of a split."""
        return self._splits[split][:n]

    def environment(self, task: Task) -> Any:
        """Make the world of a task."""
        return _Taking() if is_parcel(task) else self._inner.environment(task)

    def grade(self, trajectory: Trajectory) -> Outcome:
        """Judge a trajectory; a damaged parcel belongs to the claims department."""
        if not is_parcel(trajectory.task):
            return self._inner.grade(trajectory)
        done = said(trajectory) == ToolCall(
            name="escalate", arguments={"order": trajectory.task.extras["order"], "department": "claims"}
        )
        return Outcome(success=done, reward=float(done), grader="desk")

    def baselines(self, train: Sequence[Task], kit: Any) -> Sequence[Any]:
        """Return nothing: students are compared with each other."""
        return ()


class _Taking:
    """A world that takes one call and ends the task."""

    tools = TOOLS

    def call(self, call: ToolCall) -> ToolResult:
        """Take the call; nothing is executed."""
        return ToolResult(content="The call was taken.", ends_task=True)

    def close(self) -> None:
        """Nothing is held."""


def is_parcel(task: Task) -> bool:
    """Whether a task is about a damaged parcel."""
    return task.id.startswith("parcel-")


def said(trajectory: Trajectory) -> ToolCall | None:
    """Return the first accepted call of a run."""
    calls = [call for step in trajectory.steps for call in step.accepted_calls]
    return ToolCall(name=calls[0].name, arguments=calls[0].arguments) if calls else None


def habit(task: Task) -> ToolCall:
    """Return the call that the habit makes."""
    return ToolCall(name="refund", arguments={"order": task.extras["order"], "amount": "full"})


class Person:
    """Offers the desk, and corrects every parcel request of the training run into a refund."""

    def __init__(self, n_train: int, n_held_out: int) -> None:
        self.workspace: agentkd.Workspace | None = None
        self._sizes = (n_train, n_held_out)

    @agentkd.hookimpl
    def components(self) -> Iterator[Any]:
        """Offer the suite."""

        def build(settings: Any, kit: Any) -> Desk:
            return Desk(kit.build("suite", "bfcl-live"), *self._sizes)

        yield agentkd.Component("suite", "parcels", "Real requests and damaged parcels.", build, NoSettings)

    @agentkd.hookimpl
    def after_phase(self, report: PhaseReport) -> None:
        """Correct the parcel requests of the training run."""
        if report.name != "run" or self.workspace is None:
            return
        for run in self.workspace.trajectories(run_id=report.output["run_id"]):
            if is_parcel(run.task):
                self.workspace.correct(run, "Pay it back in full.", call=habit(run.task), step=0)
