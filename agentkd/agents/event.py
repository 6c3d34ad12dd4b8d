"""What an agent tells while it works: the values that `agent.stream` yields."""

from __future__ import annotations

from typing import Literal

from agentkd.agents.state import PausedRun
from agentkd.schema import Hit, Lift, Reply, Step, Task, Trajectory, Value

__all__ = [
    "Acted",
    "AgentEvent",
    "Finished",
    "Interrupted",
    "RecallOff",
    "Recalled",
    "Replied",
    "Restarted",
    "Started",
]


class Started(Value):
    """A run began."""

    kind: Literal["started"] = "started"
    """Tag."""
    thread_id: str
    """Name under which it can be resumed."""
    trajectory_id: str
    """Id of its trajectory."""
    task: Task
    """What is to be done."""


class Recalled(Value):
    """Memories were found for a turn and are shown; what a trial withholds is not told."""

    kind: Literal["recalled"] = "recalled"
    """Tag."""
    step: int
    """Index of the turn."""
    hits: tuple[Hit, ...]
    """The memories, best first."""


class RecallOff(Value):
    """Recall is switched off for the run's scope: its tasks are done less often with memories."""

    kind: Literal["recall-off"] = "recall-off"
    """Tag."""
    lift: Lift
    """What recall was worth to the scope."""


class Replied(Value):
    """The model answered."""

    kind: Literal["replied"] = "replied"
    """Tag."""
    step: int
    """Index of the turn."""
    reply: Reply
    """The answer."""


class Interrupted(Value):
    """The run waits for a person: go on with `agent.resume(event.run.thread_id, decision)`."""

    kind: Literal["interrupted"] = "interrupted"
    """Tag."""
    run: PausedRun
    """The run so far, with its `thread_id` and the `call` that waits."""


class Restarted(Value):
    """A person gave the try up: it is stored, and the task begins anew with the person's words."""

    kind: Literal["restarted"] = "restarted"
    """Tag."""
    trajectory: Trajectory
    """The try that was given up."""


class Acted(Value):
    """A turn is over: its calls were run."""

    kind: Literal["acted"] = "acted"
    """Tag."""
    step: Step
    """The turn."""


class Finished(Value):
    """The run is over and stored."""

    kind: Literal["finished"] = "finished"
    """Tag."""
    trajectory: Trajectory
    """What happened."""


AgentEvent = Started | RecallOff | Recalled | Replied | Interrupted | Restarted | Acted | Finished
