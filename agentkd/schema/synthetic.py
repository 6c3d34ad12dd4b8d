"""What a teacher writes for a student: items that become rows once they passed every check."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkd.schema.base import Value, content_id
from agentkd.schema.message import ToolCall, ToolSpec
from agentkd.schema.trajectory import Trajectory

__all__ = ["Budget", "Origin", "Synthetic", "Unusable", "origin_of"]

_EXTRA = "synthetic"


class Budget(Value):
    """How much a synthesizer may write."""

    items: int
    """Items at most; what it yields beyond them is not read."""
    seed: int = 0
    """Seed of what it draws."""
    spare: int = 1
    """Further questions that may be asked per one that is needed: answers that give nothing are made up for.
    A dry run, in which nobody answers, has none."""

    skip: int = 0
    """Questions that earlier cycles asked about this very report: the next ones follow them."""
    written: dict[str, int] = Field(default_factory=dict)
    """Items that were kept after other reports, by the tool that they are about."""

    def questions(self, per_question: int = 1) -> int:
        """Return how many questions may be asked where each asks for some items."""
        return -(-self.items // per_question) * (1 + self.spare)


class Origin(Value):
    """Where a synthetic trajectory comes from: kept in its `extras` and in the ledger's links."""

    synthesizer: str
    """Component that asked for it."""
    teacher: str
    """Model that wrote it."""
    report: str = ""
    """Student report that it answers; empty where it was written without one."""
    seeds: tuple[str, ...] = ()
    """Trajectories that the teacher was shown."""
    memories: tuple[str, ...] = ()
    """Memories that the teacher was shown."""
    checked: Literal["grader", "tools", "schema"] = "schema"
    """Who checked the answer: the grader of the seed's task, the tools in its world, or the schema alone."""

    def extras(self) -> dict[str, object]:
        """Return what a trajectory keeps of it."""
        return {_EXTRA: self.model_dump(mode="json")}


def origin_of(trajectory: Trajectory) -> Origin | None:
    """Return where a synthetic trajectory comes from; None for what an agent did."""
    found = trajectory.extras.get(_EXTRA)
    return Origin.model_validate(found) if found and trajectory.task.is_synthetic else None


class Synthetic(Value):
    """One item that a teacher wrote: a request with its answer. Nothing in it is trusted yet."""

    synthesizer: str
    """Name of the synthesizer."""
    teacher: str
    """Model that wrote it."""
    seed: str
    """Trajectory that it was made from."""
    prompt: str
    """The request."""
    system: str = ""
    """Instructions that precede the request."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools on offer."""
    calls: tuple[ToolCall, ...] = ()
    """Calls that answer it."""
    answer: str = ""
    """Text that answers it, after the calls where there are any."""
    proof: tuple[ToolCall, ...] = ()
    """Calls that the grader of the seed's own task must accept; empty for a request of its own."""
    proof_answer: str = ""
    """Text that the grader of the seed's own task must accept."""
    is_of_seed: bool = False
    """Whether it says again what the seed asks, so that likeness to the seed is no fault."""
    report: str = ""
    """Student report that it answers; empty where it was written without one."""
    memories: tuple[str, ...] = ()
    """Memories that the teacher was shown."""

    @property
    def id(self) -> str:
        """Content hash of request and answer: the id of its task."""
        return content_id("syn", self.system, self.prompt, self.calls, self.answer)


class Unusable(Value):
    """An answer of the teacher that gave no item: recorded, never accepted."""

    synthesizer: str
    """Name of the synthesizer."""
    seed: str
    """Trajectory that the question was about."""
    error: str
    """Why."""
    answer: str = ""
    """Head of the answer."""
    is_model_fault: bool = False
    """Whether the model failed, rather than its answer."""
