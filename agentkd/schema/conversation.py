"""What stands in a conversation beside its steps: later turns of the user, and recalled notes."""

from __future__ import annotations

import re

from agentkd.schema.memory import NOTES_BEGIN, NOTES_END
from agentkd.schema.trajectory import Trajectory

__all__ = ["recalled_text", "user_turns"]

_NOTES = re.compile(  # notes end with a line of their own: the words may also stand in a memory
    rf"{re.escape(NOTES_BEGIN)}\n?(.*?)(?:^{re.escape(NOTES_END)}[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)


def recalled_text(trajectory: Trajectory) -> list[str]:
    """Return what was recalled into a run: messages of that origin, and the notes inside others."""
    found = []
    for message in trajectory.messages:
        if message.origin == "memory":
            found.append(message.content)
        else:
            found.extend(_NOTES.findall(message.content))
    return found


def user_turns(trajectory: Trajectory) -> dict[int, list[str]]:
    """Return what the user said after the request, by the index of the step that it answers."""
    found: dict[int, list[str]] = {}
    step, has_asked = -1, False
    for message in trajectory.messages:
        if message.role == "assistant":
            step += 1
        elif message.role == "user" and message.origin in ("user", "person"):
            text = _NOTES.sub("", message.content).strip()
            if has_asked and text and step >= 0:
                found.setdefault(step, []).append(text)
            has_asked = True
    return found
