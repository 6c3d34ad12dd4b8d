"""Corrections that a run holds within itself: a tool refused a call, and a later call of it went through."""

from __future__ import annotations

from agentkd.schema import Correction, Trajectory, content_id

__all__ = ["tool_corrections"]


def tool_corrections(trajectory: Trajectory) -> list[Correction]:
    """Return one correction per refused call that the agent mended itself, on the refused step.

    The accepted call is the next one of the same tool that succeeded. A held-out task gives none.
    """
    if trajectory.task.is_held_out:
        return []
    acts = [
        (step.index, call, result)
        for step in trajectory.steps
        for call, result in zip(step.accepted_calls, step.results, strict=False)
    ]
    found = []
    for position, (index, call, result) in enumerate(acts):
        if result.ok:
            continue
        later = (c for _, c, r in acts[position + 1 :] if c.name == call.name and r.ok)
        mended = next(later, None)
        if mended is not None and mended.arguments != call.arguments:
            found.append(
                Correction(
                    id=content_id("cor", trajectory.id, index, "tool", result.error, [mended]),
                    trajectory_id=trajectory.id,
                    step=index,
                    text=result.error,
                    source="tool",
                    kind="parameter",
                    proposed=(call,),
                    accepted=(mended,),
                )
            )
    return found
