"""Builds what the student sees (no memories) and what the teacher sees (the recalled ones)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentkd.compiler.call import said_earlier
from agentkd.compiler.inputs import CompileInputs
from agentkd.compiler.turn import Turn
from agentkd.config import CompileSettings
from agentkd.schema import Hit, Message

__all__ = ["RowViews", "build_views"]


@dataclass(frozen=True)
class RowViews:
    """The prompts of one turn."""

    student: tuple[Message, ...]
    """Prompt without memories, but for those that stay in the context."""
    student_with_memory: tuple[Message, ...]
    """The same prompt with the memories; empty where none was recalled."""
    teacher: tuple[Message, ...]
    """Prompt with memories; empty where none was recalled or asked for."""


def build_views(
    turn: Turn,
    hits: Sequence[Hit],
    kept: Sequence[Hit],
    inputs: CompileInputs,
    settings: CompileSettings,
    *,
    need_teacher: bool,
) -> RowViews:
    """Return the views of a turn, through the prompt builder of the running agent.

    Without a recalled lesson the student's own base has no teacher view: where it sees no more than the
    student it has nothing to teach. Another teacher always has one. What was said in the conversation before
    the request stands before it.
    """
    tools = inputs.tools_of(turn.trajectory.task)
    earlier = said_earlier(turn.trajectory, tools)

    def prompt(memory: str, tool_docs: bool) -> tuple[Message, ...]:
        whole = inputs.views.prompt(
            turn.trajectory.task, tools=tools, history=turn.history, memory=memory, tool_docs=tool_docs
        )
        at = len(whole) - len(turn.history) - 1
        return (*whole[:at], *earlier, *whole[at:])

    memory = inputs.render(hits) if hits else ""
    reads = inputs.render(kept) if kept else ""
    with_memory: tuple[Message, ...] = ()
    if memory and memory != reads:
        with_memory = prompt(memory, settings.tool_docs)
    teacher: tuple[Message, ...] = ()
    if need_teacher and (memory != reads or inputs.teacher != "base"):
        teacher = prompt(memory, settings.teacher_tool_docs)
    return RowViews(prompt(reads, settings.tool_docs), with_memory, teacher)
