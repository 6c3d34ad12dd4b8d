"""What is trained on: examples with a teacher and a student view, and the dataset's card."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from agentkd.schema.base import Value, now
from agentkd.schema.message import Message

__all__ = ["DatasetCard", "Example", "Provenance", "Rendered"]


class Rendered(Value):
    """A prompt and its completion as token ids, with a loss weight per token."""

    ids: tuple[int, ...]
    """Token ids of prompt and completion, `[time]`."""
    weights: tuple[float, ...]
    """Loss weight of each token, `[time]`; 0 outside the completion. `weights[t]` weighs the
    prediction *of* token t from the tokens before it."""


class Provenance(Value):
    """Where an example comes from."""

    trajectories: tuple[str, ...] = ()
    """Ids of the source trajectories."""
    memories: tuple[str, ...] = ()
    """Ids of the memories that the target rests on or that the teacher view shows."""
    corrections: tuple[str, ...] = ()
    """Ids of the corrections that gave the target."""
    teacher: str = ""
    """Model that supplied the target or the signals; `grader` for an official answer."""
    is_retold: bool = False
    """Whether the teacher's own words stand in place of what was said or accepted."""
    synthesizer: str = ""
    """Component that had a teacher write the row; empty for what happened."""
    report: str = ""
    """Student report that a synthetic row answers."""
    base: str = ""
    """Base model that the rendering is for."""


class Example(Value):
    """One training row."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Content hash over views, target, tokens, weight, memories and base; trajectory and correction ids
    are left out, so that the same lesson from a repeated run is the same row."""
    kind: Literal["trajectory", "internalise", "correction", "negative", "synthetic"]
    """What the row teaches. A teacher wrote a `synthetic` one. A `negative` has only a rejected
    completion: its target is empty and `student` is the bare prompt without a single weight."""
    task_id: str
    """Task that it comes from."""
    group: str = ""
    """Near-duplicate cluster; a split never cuts through one."""
    student_view: tuple[Message, ...]
    """Prompt without the memories."""
    teacher_view: tuple[Message, ...] = ()
    """Prompt with the memories; empty where no teacher signal is wanted."""
    target: Message
    """What is to be said."""
    rejected: Message | None = None
    """What must not be said, where a correction or a failed run gave one."""
    student: Rendered
    """The student view and target as tokens."""
    student_rejected: Rendered | None = None
    """The student view and the rejected message as tokens, its completion weighted; None where nothing is
    rejected or where it cannot be rendered."""
    teacher: Rendered | None = None
    """The teacher view and the same target as tokens."""
    weight: float = 1.0
    """Weight of the row in the loss."""
    provenance: Provenance = Provenance()
    """Where it comes from."""
    extras: dict[str, Any] = Field(default_factory=dict)
    """Data of plugins."""


class DatasetCard(Value):
    """What a dataset is: written beside its rows as `card.json`."""

    schema_version: int = 1
    """Version of this value's shape."""
    id: str
    """Content hash over the rows' ids and the rendering: the dataset's name on disk."""
    n_train: int
    """Rows to train on."""
    n_dev: int
    """Rows kept back to watch the loss; never tasks of a suite's holdout."""
    n_label_tokens: int
    """Trained tokens of the train rows."""
    n_tokens: int
    """All tokens of the train rows' student views."""
    n_pairs: int = 0
    """Train rows that have a rejected completion."""
    kinds: dict[str, int] = Field(default_factory=dict)
    """Rows of both splits by kind."""
    sources: dict[str, int] = Field(default_factory=dict)
    """Number of distinct tasks, trajectories, memories and corrections under the rows."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Number of candidate rows left out, by reason."""
    eligibility: dict[str, int] = Field(default_factory=dict)
    """Number of memories that may be compiled (`eligible`), and of the others by reason."""
    ineligible: dict[str, str] = Field(default_factory=dict)
    """Why each of the others may not, by id."""
    refusals: tuple[str, ...] = ()
    """For each row that could not be rendered, by reason: the first of them, and the cure."""
    base: str = ""
    """Base model whose tokenizer and template rendered it."""
    teacher: str = ""
    """Model that sees the memories in the teacher views; empty where no row has one."""
    template_hash: str = ""
    """Hash of tokenizer and chat template."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Compiler settings."""
    created_at: datetime = Field(default_factory=now)
    """When it was written (UTC); not part of the id."""
