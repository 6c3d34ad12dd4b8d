"""Ready-made trajectories and corrections: the smallest ones that every stage can work on."""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.schema import (
    Correction,
    Message,
    Outcome,
    Step,
    Task,
    ToolCall,
    ToolResult,
    ToolSpec,
    Trajectory,
    Usage,
    content_id,
)

__all__ = ["example_correction", "example_trajectory"]

BOOK = ToolSpec(
    name="book_table",
    description="Book a table in a restaurant.",
    parameters={
        "type": "object",
        "properties": {"people": {"type": "integer"}, "time": {"type": "string", "maxLength": 16}},
        "required": ["people"],
    },
)


def example_trajectory(
    prompt: str = "Book a table for two at seven.",
    *,
    calls: Sequence[ToolCall] = (ToolCall(name="book_table", arguments={"people": 2, "time": "19:00"}),),
    success: bool = True,
    split: str = "train",
    run_id: str = "run-example",
) -> Trajectory:
    """Return a graded trajectory of one step in which the agent made `calls`."""
    task = Task(
        id=content_id("tsk", prompt, split), suite="example", split=split, prompt=prompt, tools=(BOOK,)
    )
    reply = Message(role="assistant", tool_calls=tuple(calls), origin="model")
    results = tuple(ToolResult(content="done", ends_task=True) for _ in calls)
    usage = Usage(prompt_tokens=20, completion_tokens=8, usd=0.0, seconds=0.1)
    return Trajectory(
        id=content_id("tra", run_id, task.id, 0),
        run_id=run_id,
        task=task,
        model="scripted",
        messages=(Message(role="user", content=f"Request: {prompt}"), reply),
        steps=(Step(index=0, reply=reply, accepted_calls=tuple(calls), results=results, usage=usage),),
        outcome=Outcome(success=success, reward=float(success), grader="example"),
        usage=usage,
    )


def example_correction(
    trajectory: Trajectory,
    text: str = "It was a table for four people.",
    *,
    accepted: Sequence[ToolCall] = (ToolCall(name="book_table", arguments={"people": 4, "time": "19:00"}),),
) -> Correction:
    """Return a person's correction of the first step of `trajectory`."""
    return Correction(
        id=content_id("cor", trajectory.id, text, list(accepted)),
        trajectory_id=trajectory.id,
        step=0,
        text=text,
        kind="parameter",
        proposed=trajectory.steps[0].reply.tool_calls if trajectory.steps else (),
        accepted=tuple(accepted),
    )
