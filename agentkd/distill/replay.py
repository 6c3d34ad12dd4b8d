"""Replays a claim: would this call have been right? The task's own world and grader answer.

The run is built again with the claimed call in the place of the one at the key step; what came before is
kept, and what came after is tried too. Where the task needs further steps that the run never took, a
right call leaves it undone: that refutes nothing. Held-out tasks are never replayed: their grader would tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agentkd.errors import AgentkdError, CeilingError
from agentkd.protocols import Kit, Suite
from agentkd.schema import ADHOC, Message, Outcome, Step, ToolCall, ToolResult, Trajectory, Value, content_id

__all__ = ["Replayed", "replay_calls", "replay_claim"]


class Replayed(Value):
    """What a replay showed."""

    verdict: Literal["holds", "fails", "unknown"]
    """`unknown` where the claim could not be replayed, or the task goes on after it."""
    detail: str = ""
    """Why."""


def replay_claim(trajectory: Trajectory, step: int, call: ToolCall, kit: Kit) -> Replayed:
    """Replay a run with `call` at step `step` (-1: the first one) in its own suite.

    A claim holds where the tool accepts the call and the grader calls the run done, with or without what the
    run did afterwards. It fails where that is not so and the call itself gives an error or ends the task.
    What the run answered in words is no part of a replay.
    """
    task = trajectory.task
    if task.is_held_out:
        return Replayed(verdict="unknown", detail=f"task `{task.id}` is held out")
    if task.suite == ADHOC:
        return Replayed(verdict="unknown", detail="an ad-hoc request has no suite to be graded by")
    try:
        suite = kit.suite(task.suite)
    except AgentkdError:
        return Replayed(verdict="unknown", detail=f"the suite `{task.suite}` is not known here")
    index = max(step, 0)
    before = [c for s in trajectory.steps[:index] for c in s.accepted_calls]
    after = [c for s in trajectory.steps[index + 1 :] for c in s.accepted_calls]
    plans = [[*before, call], *([[*before, call, *after]] if after else [])]
    is_last, said = False, ""
    for plan in plans:
        try:
            outcome, results = replay_calls(trajectory, plan, suite)
        except CeilingError:
            raise
        except Exception as error:  # the world of the task broke: that says nothing about the claim
            return Replayed(verdict="unknown", detail=f"the replay broke: {type(error).__name__}: {error}")
        if len(results) <= len(before):
            return Replayed(verdict="unknown", detail=f"task `{task.id}` ends before it")
        own = results[len(before)]
        if outcome.success and own.ok:
            return Replayed(verdict="holds", detail=f"task `{task.id}` is done with it")
        is_last, said = is_last or own.ends_task or not own.ok, own.error or outcome.feedback
    detail = f"task `{task.id}` is not done with it"
    if not is_last:
        return Replayed(verdict="unknown", detail=f"{detail}, which may be for want of further steps")
    return Replayed(verdict="fails", detail=f"{detail}. {said}".strip())


def replay_calls(
    trajectory: Trajectory, calls: Sequence[ToolCall], suite: Suite
) -> tuple[Outcome, tuple[ToolResult, ...]]:
    """Make the calls in a fresh world of the task; return the grade of this run and what the tools said."""
    environment = suite.environment(trajectory.task)
    steps: list[Step] = []
    try:
        for call in calls:
            result = environment.call(call)
            steps.append(_step(len(steps), call, result))
            if result.ends_task:
                break
    finally:
        environment.close()
    made = trajectory.model_copy(
        update={
            "id": content_id("tra", trajectory.id, "replay", list(calls)),
            "model": "replay",
            "messages": (),
            "steps": tuple(steps),
            "answer": "",
            "outcome": None,
            "failure": None,
        }
    )
    return suite.grade(made), tuple(step.results[0] for step in steps)


def _step(index: int, call: ToolCall, result: ToolResult) -> Step:
    reply = Message(role="assistant", tool_calls=(call,), origin="model")
    return Step(index=index, reply=reply, accepted_calls=(call,), results=(result,))
