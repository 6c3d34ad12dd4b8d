"""What people, graders and tools said of a run: which word counts, and what it is about."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from agentkd.hf import call_text
from agentkd.schema import Correction, Trajectory

__all__ = [
    "OBJECTED",
    "SAY",
    "SUCCESS",
    "final_of",
    "objections",
    "of_one_call",
    "rank",
    "usable_corrections",
]

OBJECTED = "a person objected to it"
"""Why a turn is left out."""

SAY = {"person": 4, "grader": 3, "judge": 1, "tool": 0}
"""What a word weighs, by who said it."""

SUCCESS = 2
"""What the success of a run weighs beside these: more than a judge, less than a grader's correction."""


def usable_corrections(trajectory: Trajectory, corrections: Iterable[Correction]) -> list[Correction]:
    """Return the corrections that accept something; a tool's word does not stand against the grader's."""
    is_failure = trajectory.outcome is not None and not trajectory.success
    accepting = [c for c in corrections if c.accepted or c.accepted_answer]
    return [c for c in accepting if not (is_failure and c.source == "tool")]


def final_of(corrections: Iterable[Correction]) -> Correction | None:
    """Return what was accepted in the end: a person before a grader, the latest of each."""
    return max(corrections, key=rank, default=None)


def rank(correction: Correction) -> tuple[int, datetime, str]:
    """Return the order of corrections: the last one counts."""
    return SAY[correction.source], correction.created_at, correction.id


def objections(corrections: Iterable[Correction]) -> dict[int, frozenset[str]]:
    """Return what a person objected to without saying what is right, by step: calls, or "" for all of it."""
    found: dict[int, frozenset[str]] = {}
    for each in corrections:
        is_bare = not each.accepted and not each.accepted_answer and each.kind != "answer"
        if is_bare and each.source == "person" and each.step is not None:
            about = {call_text(call) for call in each.proposed} or {""}
            found[each.step] = found.get(each.step, frozenset()) | about
    return found


def of_one_call(correction: Correction, trajectory: Trajectory) -> Correction:
    """Return a correction that accepts one call in the place of several as one of the call that it is about.

    That is the only one of the same tool; where several are, or none, it stands for all of them, and so does
    one that leaves some of the calls out.
    """
    steps = [step for step in trajectory.steps if step.index == correction.step]
    proposed = correction.proposed or (steps[0].reply.tool_calls if steps else ())
    if len(correction.accepted) != 1 or len(proposed) < 2:
        return correction
    right = correction.accepted[0]
    same = [call for call in proposed if call.name == right.name]
    is_about_one = len(same) == 1 and call_text(same[0]) != call_text(right)
    return correction.model_copy(update={"proposed": tuple(same)}) if is_about_one else correction
