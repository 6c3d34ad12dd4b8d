"""What arms said on the tasks of an evaluation: the first turn of each, with the prompt that it answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agentkd.schema import Message, Trajectory

__all__ = ["Said", "first_turns"]


class Said(NamedTuple):
    """One first turn."""

    prompt: tuple[Message, ...]
    """All that the model saw, recalled memories included."""
    reply: Message
    """What it said."""
    success: bool
    """Whether the task was done in the end."""


def first_turns(trajectories: Iterable[Trajectory]) -> dict[str, Said]:
    """Return the first turn of each task's first attempt, by task; runs that said nothing are left out."""
    found: dict[str, Said] = {}
    for run in sorted(trajectories, key=lambda run: (run.task.id, run.attempt)):
        place = next((n for n, message in enumerate(run.messages) if message.role == "assistant"), 0)
        if (
            place
            and run.task.id not in found
            and (run.messages[place].content or run.messages[place].tool_calls)
        ):
            found[run.task.id] = Said(run.messages[:place], run.messages[place], run.success)
    return found
