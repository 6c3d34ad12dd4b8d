"""What an agent tells while it works: the values that `agent.stream` yields."""

from __future__ import annotations

from typing import Literal

from agentkd.agents.state import PausedRun
from agentkd.schema import Hit, Reply, Step, Task, Trajectory, Value

__all__ = ["Acted", "AgentEvent", "Finished", "Interrupted", "Recalled", "Replied", "Started"]


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
    """Memories were found for a turn."""

    kind: Literal["recalled"] = "recalled"
    """Tag."""
    step: int
    """Index of the turn."""
    hits: tuple[Hit, ...]
    """The memories, best first."""


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


AgentEvent = Started | Recalled | Replied | Interrupted | Acted | Finished
