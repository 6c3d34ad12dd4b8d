"""The state of one run as it passes from node to node; a checkpointer stores exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypedDict

from pydantic import Field

from agentkd.agents.retry import join_notes, next_try, restart_note
from agentkd.agents.review import Reviewed
from agentkd.agents.trial import Trial
from agentkd.schema import (
    Failure,
    Heard,
    Hit,
    Message,
    Reply,
    Route,
    Scope,
    Step,
    Task,
    ToolCall,
    ToolSpec,
    Trajectory,
    Usage,
    Value,
    content_id,
    now,
)

__all__ = ["GraphState", "PausedRun", "Run", "begun_anew", "paused", "trajectory_of"]


class Run(Value):
    """One run, between two nodes of the graph."""

    trajectory_id: str
    """Id of the trajectory that it becomes."""
    run_id: str
    """Run that it belongs to."""
    attempt: int = 0
    """Number of this try at the task within the run."""
    thread_id: str
    """Name under which it can be resumed."""
    task: Task
    """What is to be done."""
    model: str = ""
    """Model that acts."""
    route: Route | None = None
    """Which student acts and why; None where there is no choice, or what serves does not stand aside."""
    checkpoint: str = ""
    """What it began with and goes on with, whatever serves since, unless that stands aside; empty where the
    agent has one model."""
    scope: Scope = Scope()
    """Whose work it is."""
    notes: str = ""
    """What a person or a failed try says about the task; stands before what is recalled."""
    heard: tuple[Heard, ...] = ()
    """What tools said in the tries that the notes are about, and to the agent in whose tool this runs."""
    memory: str = ""
    """What was recalled before the first turn, as text."""
    hits: tuple[Hit, ...] = ()
    """What was recalled for the present turn and is shown."""
    trial: Trial | None = None
    """What the run shows of its memories; None before the first recall and without trials."""
    withheld: tuple[Hit, ...] = ()
    """What was recalled for the present turn and is withheld."""
    tainted: str = ""
    """What brought text into the context that nobody answers for; empty where nothing did."""
    history: tuple[Message, ...] = ()
    """Turns after the request, as the model sees them."""
    reply: Reply | None = None
    """Answer of the present turn."""
    to_review: tuple[int, ...] = ()
    """Positions of the calls that wait for a person."""
    reviewed: tuple[Reviewed, ...] = ()
    """What became of each call of the present turn."""
    steps: tuple[Step, ...] = ()
    """Finished turns."""
    messages: tuple[Message, ...] = ()
    """The whole conversation; filled by the last node."""
    is_done: bool = False
    """Whether the loop has come to its end."""
    failure: Failure | None = None
    """Why it broke off."""
    created_at: datetime = Field(default_factory=now)
    """When it began (UTC)."""


class GraphState(TypedDict):
    """LangGraph's state: a single channel."""

    run: Run


class PausedRun(Trajectory):
    """A run that waits for a person: the trajectory so far, and the call to decide on.

    Go on with `agent.resume(paused.thread_id, decision)`.
    """

    thread_id: str
    """Name under which it is resumed."""
    call: ToolCall
    """Call that waits."""
    waiting: tuple[ToolCall, ...] = ()
    """All calls of this turn that wait, `call` first: answer one, or all of them in a list."""
    tainted: str = ""
    """What untrusted text the conversation holds, which the call may come from; empty where it holds none."""

    @property
    def review_request(self) -> dict[str, Any]:
        """Return the question in the shape of LangChain's HumanInTheLoop middleware, for its front ends."""
        allowed = ["approve", "edit", "reject", "respond"]
        names = dict.fromkeys(call.name for call in self.waiting)
        return {
            "action_requests": [{"name": call.name, "args": call.arguments} for call in self.waiting],
            "review_configs": [{"action_name": name, "allowed_decisions": allowed} for name in names],
        }


def trajectory_of(run: Run, tools: Sequence[ToolSpec] = ()) -> Trajectory:
    """Return the trajectory of a run as far as it has come; not graded.

    `tools` are what its world offered: the trajectory of a request outside any suite holds them, since
    whoever corrects or compiles it later has no agent to ask.
    """
    last = run.steps[-1].reply if run.steps else None
    return Trajectory(
        id=run.trajectory_id,
        run_id=run.run_id,
        task=run.task.offering(tools),
        attempt=run.attempt,
        model=run.model,
        scope=run.scope,
        messages=run.messages,
        heard=run.heard,
        steps=run.steps,
        answer="" if last is None or last.tool_calls else last.content,
        failure=run.failure,
        usage=sum((step.usage for step in run.steps), Usage(usd=0.0)),
        created_at=run.created_at,
        extras={} if run.route is None else {"route": run.route.model_dump(mode="json")},
    )


def paused(run: Run, waiting: tuple[ToolCall, ...]) -> PausedRun:
    """Return what the caller of a run sees while a person is asked about the first of the waiting calls."""
    fields = dict(trajectory_of(run))
    return PausedRun(**fields, thread_id=run.thread_id, call=waiting[0], waiting=waiting, tainted=run.tainted)


def begun_anew(run: Run, reason: str) -> Run:
    """Return the next try of a run that a person wants anew: nothing of it but the request and the words."""
    attempt = next_try(run.attempt)
    return Run(
        trajectory_id=content_id("tra", run.run_id, run.task.id, attempt),
        run_id=run.run_id,
        attempt=attempt,
        thread_id=run.thread_id,
        task=run.task,
        model=run.model,
        route=run.route,
        checkpoint=run.checkpoint,
        scope=run.scope,
        notes=join_notes(run.notes, restart_note(reason)),
        heard=run.heard,
        tainted=run.tainted if run.heard else "",
    )
