"""Where a memory belongs: in the context, in the weights, in both or in neither; as measured per topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from agentkd.schema.base import Value
from agentkd.schema.interval import Interval
from agentkd.schema.memory import Memory

__all__ = ["Option", "Place", "Placement", "place_of"]

Place = Literal["neither", "context", "weights", "both"]


class Option(Value):
    """What one place of a cluster's memories does for its tasks, and what it costs."""

    place: Place
    """Where the memories are."""
    success: Interval
    """Share of the cluster's tasks that are done."""
    gain: Interval | None = None
    """Against `neither`, on the same tasks (paired bootstrap); None for `neither` itself."""
    prompt_tokens: float = 0.0
    """Mean prompt tokens per task that the memories add in this place."""
    cost: float = 0.0
    """Seconds per task (US dollars where the model has a price): reading these tokens, and the training
    shared out over `[placement] horizon` tasks."""
    cost_per_point: float | None = None
    """`cost` per point (0.01) of success gained; None where nothing is gained."""
    is_best: bool = False
    """Whether no other place is credibly better."""


class Placement(Value):
    """The decision on one cluster of memories, with the figures that it rests on."""

    cluster: str
    """Words that its situations share."""
    memories: tuple[str, ...]
    """Ids of its memories."""
    is_fact: bool = False
    """Whether they are facts, which are never compiled."""
    n: int
    """Tasks that recalled it, on which every option was tried."""
    place: Place
    """Where the memories go next."""
    is_measured: bool = True
    """Whether the figures decide; else there were too few tasks, and the kind does."""
    options: tuple[Option, ...] = ()
    """What each place does, cheapest first."""
    unit: Literal["seconds", "usd"] = "seconds"
    """Unit of the costs."""
    reason: str = ""
    """One sentence with the figures."""


def place_of(memory: Memory, places: Mapping[str, Place]) -> Place:
    """Return where a memory goes: as measured, else facts stay in the context and lessons go to the weights.

    NesyCD (arXiv 2409.13203): skills to the weights of the small model, knowledge to a store beside it.
    """
    default: Place = "context" if memory.kind == "fact" else "weights"
    return places.get(memory.id, default)
