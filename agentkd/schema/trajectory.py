"""What happened: steps, trajectories and corrections."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from agentkd.schema.base import Value, now
from agentkd.schema.memory import Scope
from agentkd.schema.message import Message, TokenTrace, ToolCall, ToolResult, Usage
from agentkd.schema.task import Failure, Outcome, Task
from agentkd.schema.text import JsonObject

__all__ = ["RETRY_STRIDE", "Correction", "Heard", "Step", "Trajectory"]


RETRY_STRIDE = 1000
"""Distance between the attempt numbers of one try and the next: attempt 0 is tried again as 1000."""


class Step(Value):
    """One turn of the loop: what was recalled, what the model said, what the tools answered."""

    index: int
    """Position in the trajectory, from 0."""
    reply: Message
    """The assistant's message as the model proposed it."""
    accepted_calls: tuple[ToolCall, ...] = ()
    """Calls that were executed; differs from the proposal after a person edited it."""
    results: tuple[ToolResult, ...] = ()
    """One result per accepted call."""
    recalled: tuple[str, ...] = ()
    """Ids of the memories that were rendered into this step's prompt."""
    usage: Usage = Usage()
    """What the model call cost."""
    tokens: TokenTrace | None = None
    """Exact tokens where the model reports them."""


class Heard(Value):
    """What a tool had said that the model read and no step holds, or an earlier turn of the conversation."""

    tool: str
    """Name of the tool; `conversation` for an earlier turn, which `earlier` tells."""
    text: str = ""
    """What it said; empty where it is too old to be kept."""
    trust: Literal["", "trusted", "untrusted"] = ""
    """What the tool declared of its output."""
    trajectory: str = ""
    """Trajectory in which it said so: what is revoked of it reaches those who heard it."""


class Trajectory(Value):
    """What an agent did on a task, step by step, with its outcome."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Identifier; derived from run, task and attempt, so that a resumed run writes it once."""
    run_id: str
    """Identifier of the run that it belongs to."""
    task: Task
    """What was to be done."""
    attempt: int = 0
    """Number of this try at the task within the run, from 0."""
    model: str = ""
    """Model that acted, `base` or `base@checkpoint`."""
    scope: Scope = Scope()
    """Whose work it was: the scope of the agent. All that a user did can be revoked by it."""
    messages: tuple[Message, ...] = ()
    """The whole conversation as the model saw it, recalled memories included."""
    earlier: tuple[Message, ...] = ()
    """What was said in the conversation before the request, each call in a message of its own. Of a long one
    the newest part; empty where the request begins it."""
    heard: tuple[Heard, ...] = ()
    """What tools said that is in no step: in earlier turns of the conversation, in the failed tries whose
    lessons it read, to the agent that called this one. It taints what the model says as results do."""
    steps: tuple[Step, ...] = ()
    """The turns."""
    answer: str = ""
    """Final text of the agent."""
    outcome: Outcome | None = None
    """The grader's judgement; None while ungraded."""
    failure: Failure | None = None
    """Why the run broke off; None for a run that finished."""
    usage: Usage = Usage()
    """Sum over the steps."""
    created_at: datetime = Field(default_factory=now)
    """When the run began (UTC)."""
    imported_from: str = ""
    """File that it was read from: its texts are untrusted and its outcome is a claim. Empty for what happened
    here, and where a person vouched for the file."""
    extras: JsonObject = Field(default_factory=dict)
    """Data of plugins."""

    @property
    def success(self) -> bool:
        """Whether a grader judged the task done."""
        return self.outcome is not None and self.outcome.success

    @property
    def recalled(self) -> tuple[str, ...]:
        """Ids of all memories recalled, first use first."""
        return tuple(dict.fromkeys(m for step in self.steps for m in step.recalled))


class Correction(Value):
    """Language feedback on a trajectory by a person, a grader, a judge or a tool."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Identifier, derived from trajectory, step, source and text."""
    trajectory_id: str
    """What it corrects."""
    step: int | None = None
    """Index of the corrected step; None for the whole trajectory."""
    text: str
    """What was said."""
    source: Literal["person", "grader", "judge", "tool"] = "person"
    """Who said it."""
    kind: Literal["plan", "parameter", "preference", "answer", "unknown"] = "unknown"
    """What it is about (DROC's three kinds; `answer` for an accepted answer, or one in a tool's place)."""
    proposed: tuple[ToolCall, ...] = ()
    """What the agent wanted to call."""
    accepted: tuple[ToolCall, ...] = ()
    """What was accepted in the end."""
    accepted_answer: str = ""
    """Accepted final text, for a correction of an answer without calls."""
    created_at: datetime = Field(default_factory=now)
    """When it was given (UTC)."""
    imported_from: str = ""
    """File that it was read from: who said it is a claim. Empty for what was said here."""
