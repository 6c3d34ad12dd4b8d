"""What a compilation starts from: values and callables, so that no other stage is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.compiler.source import Traces
from agentkd.config import TrustSettings
from agentkd.protocols import Views
from agentkd.schema import Hit, Memory, Place, Task, ToolSpec, Trajectory, now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CompileInputs"]


@dataclass(frozen=True)
class CompileInputs:
    """Everything that `compile_dataset` reads."""

    traces: Traces
    """What happened, with its corrections; only tasks of training splits."""
    memories: Sequence[Memory]
    """Memories of the scope. What may not be compiled (private, fact, revoked, not active) is left out
    here, and rows that rest on a private or revoked one with it, so that it is best to pass them all."""
    recall: Callable[[Trajectory], Sequence[Hit]]
    """Recall for a trajectory's request, without the lessons that rest on the same task."""
    render: Callable[[Sequence[Hit]], str]
    """Text of recalled memories as it goes into a prompt."""
    views: Views
    """The prompt builder of the running agent."""
    tools_of: Callable[[Task], Sequence[ToolSpec]]
    """Tools that a task offers."""
    tokenizer: Path
    """Folder of the base model's tokenizer."""
    base_id: str
    """Fingerprint of the base model."""
    teacher: str
    """Name of the model that gives teacher signals; `base` is the student's own."""
    embed: Callable[[Sequence[str]], NDArray[np.float32]]
    """Unit vectors of texts, `[len(texts), dimensions]`, for near duplicates."""
    bases: frozenset[str] = frozenset()
    """Names under which the student's base acts: what it does without a memory needs no training."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where measured memories belong, by id: see `agentkd.schema.place_of`."""
    max_synthetic: float = 0.5
    """Largest share of turns that a teacher wrote; the newest are kept."""
    forbidden: Mapping[str, str] = field(default_factory=dict)
    """Why nothing of a trajectory may be compiled, by id."""
    revoked: frozenset[str] = frozenset()
    """Revoked memories: what a model said that was shown one is not compiled."""
    trust: TrustSettings = field(default_factory=TrustSettings)
    """Whose words may be compiled."""
    students: frozenset[str] = frozenset()
    """Names under which the present student acts: its graded runs say what is easy and what is hard."""
    read_at: datetime = field(default_factory=now)
    """When the memories were read (UTC): what comes in later is new to whoever learns the rows."""
