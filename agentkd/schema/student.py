"""What a student can and cannot do yet: the report that a teacher reads before it writes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from agentkd.schema.base import Value, now
from agentkd.schema.report import Interval

__all__ = ["Confidence", "Mark", "Mistake", "MistakeKind", "StudentReport"]

MistakeKind = Literal["format", "tool", "arguments", "answer", "failed"]


class Mark(Value):
    """How the student does on the tasks of one group, of one tool, or in one skill."""

    kind: Literal["group", "tool", "skill"]
    """`group` is a cluster of alike tasks, `tool` the accepted one, `skill` a partial score of the grader."""
    name: str
    """Its name."""
    n: int
    """Tasks."""
    success: Interval
    """Share done, or mean score of a skill (Wilson interval)."""


class Mistake(Value):
    """One wrong answer beside the accepted one."""

    trajectory_id: str
    """The run."""
    task_id: str
    """The task."""
    prompt: str
    """The request."""
    kind: MistakeKind
    """`format`: no call, or one that the tool's schema refuses; `tool`: another tool; `arguments`: the right
    tool with other arguments; `answer`: another text; `failed`: the run broke off."""
    said: str = ""
    """What the student said: its calls, one JSON object a line, or its text."""
    accepted: str = ""
    """What would have been right, written in the same way; empty where nobody knows."""
    tool: str = ""
    """The accepted tool."""
    said_tool: str = ""
    """The tool that the student called."""
    group: str = ""
    """Group of the task."""
    reward: float = 0.0
    """Reward that it got all the same, in [0, 1]."""
    feedback: str = ""
    """What the grader said."""


class Confidence(Value):
    """How far the student's probabilities tell when it is right."""

    n: int
    """Runs with probabilities of their tokens."""
    mean: float
    """Mean over the runs of the geometric mean probability of their tokens."""
    ece: float
    """Expected calibration error over ten bins of equal width: |confidence - success|, weighted by runs."""


class StudentReport(Value):
    """A student's exam on training-side tasks; held-out tasks never enter it."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Content hash over all but the time."""
    suite: str
    """Suite; empty for what the ledger held."""
    split: str
    """Split that the tasks come from."""
    checkpoint: str = "base"
    """Who was assessed: `base` or a checkpoint."""
    n: int
    """Tasks."""
    success: Interval
    """Share of tasks done (Wilson interval)."""
    marks: tuple[Mark, ...] = ()
    """Tools, skills and groups of two tasks or more, weakest first."""
    n_format_errors: int = 0
    """Runs without a call where one was wanted, or with one that the schema refuses."""
    mistakes: tuple[Mistake, ...] = ()
    """All wrong answers, least reward first."""
    hardest: tuple[str, ...] = ()
    """Ids of at most ten tasks: least reward first, of equal ones those of the weakest tool."""
    confidence: Confidence | None = None
    """Calibration; None where the model reports no probabilities."""
    created_at: datetime = Field(default_factory=now)
    """When it was made (UTC); not part of the id."""
