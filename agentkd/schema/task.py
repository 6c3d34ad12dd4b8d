"""Work and how it went: tasks, outcomes and failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from agentkd.schema.base import Value
from agentkd.schema.message import ToolCall, ToolSpec
from agentkd.schema.text import JsonObject

__all__ = [
    "ADHOC",
    "ASSESS_SPLIT",
    "SYNTHETIC_SPLIT",
    "Failure",
    "Outcome",
    "Task",
    "is_held_out",
    "is_lived",
]

ADHOC = "adhoc"
"""Suite of a request made through `agent.run`: a user asked it, and no grader judges it."""
ASSESS_SPLIT = "assess"
"""Split under which a student's exam is recorded: neither distilled nor compiled, nor held out."""
SYNTHETIC_SPLIT = "synthetic"
"""Split of what a teacher wrote: compiled, never distilled."""


def is_held_out(split: str) -> bool:
    """Whether a split is for `evaluate` alone: its name begins with `holdout` or `test`."""
    return split.startswith(("holdout", "test"))


def is_lived(split: str) -> bool:
    """Whether runs of a split are distilled: nothing held out, no exam, nothing that a teacher wrote."""
    return not is_held_out(split) and split not in (ASSESS_SPLIT, SYNTHETIC_SPLIT)


class Task(Value):
    """One thing to do. The grader and its answers live in the suite, never in the task."""

    id: str
    """Identifier that is unique within its suite and stable over releases."""
    suite: str = ADHOC
    """Name of the suite; `adhoc` for a request made through `agent.run`."""
    split: str = "train"
    """Split that the task belongs to: `train`, `dev`, `holdout`, `holdout-unseen`, ..."""
    prompt: str
    """The request, as the user wrote it."""
    system: str = ""
    """Instructions of the task that precede the request."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools offered for this task; empty means those of its suite's world or, before a run, of the agent."""
    group: str = ""
    """Near-duplicate cluster or entity; a split never cuts through a group."""
    extras: JsonObject = Field(default_factory=dict)
    """Data of the suite; never holds answers."""

    def offering(self, tools: Sequence[ToolSpec]) -> Task:
        """Return a request outside any suite with the tools of its agent; another task has its own."""
        is_told = self.suite != ADHOC or bool(self.tools)
        return self if is_told else self.model_copy(update={"tools": tuple(tools)})

    @property
    def is_held_out(self) -> bool:
        """Whether nothing may be learnt from the task: its split is `holdout...` or `test...`."""
        return is_held_out(self.split)

    @property
    def is_synthetic(self) -> bool:
        """Whether a teacher wrote the task."""
        return self.split == SYNTHETIC_SPLIT

    @property
    def is_lived(self) -> bool:
        """Whether runs of the task are distilled: no held-out task, no exam, nothing that a teacher wrote."""
        return is_lived(self.split)


class Failure(Value):
    """Why a run ended without a result. A failed run is data, not an exception."""

    kind: Literal["model", "tool", "limit", "environment", "cancelled"]
    """What gave way."""
    message: str
    """What happened, in one sentence."""


class Outcome(Value):
    """A grader's judgement of one trajectory."""

    success: bool
    """Whether the task was done."""
    reward: float = 0.0
    """Reward in [0, 1]; 1.0 for full success."""
    parts: dict[str, float] = Field(default_factory=dict)
    """Named partial scores in [0, 1], such as `tool_choice` and `valid_call`."""
    feedback: str = ""
    """What was wrong, in words that may be shown to the agent."""
    expected: tuple[ToolCall, ...] = ()
    """Accepted calls, given for training splits only; always empty on a holdout."""
    expected_answer: str = ""
    """Accepted text of a task without calls, given for training splits only; always empty on a holdout."""
    grader: str = ""
    """Name of the grader."""
