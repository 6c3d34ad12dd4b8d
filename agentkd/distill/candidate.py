"""Builds candidate memories: ids by content, scope by suite, evidence by trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentkd.distill.source import generalise, memory_scope, tool_names
from agentkd.schema import (
    Correction,
    Evidence,
    Memory,
    MemoryKeys,
    Scope,
    ToolCall,
    Trajectory,
    memory_id,
)

__all__ = ["candidate"]


def candidate(
    kind: Any,
    when_to_use: str,
    content: str,
    *,
    trajectories: Sequence[Trajectory],
    scope: Scope,
    origin: str,
    confidence: float,
    step: int | None = None,
    calls: Sequence[ToolCall] = (),
    corrections: Sequence[Correction] = (),
    query: str = "",
) -> Memory:
    """Return a memory of status `candidate`.

    Args:
        kind: Kind of memory.
        when_to_use: The situation.
        content: What to do.
        trajectories: What it rests on; the first one gives request and suite.
        scope: The workspace's scope; the suite's name is added.
        origin: Name of the distiller.
        confidence: In [0, 1].
        step: Index of the key step in the first trajectory.
        calls: Accepted calls of a `case`; else the calls of the trajectories name the tools.
        corrections: Corrections that it rests on.
        query: The request in general words; made from the request where empty.
    """
    first = trajectories[0]
    where = memory_scope(first.task, scope)
    used = calls or [call for t in trajectories for s in t.steps for call in s.accepted_calls]
    return Memory(
        id=memory_id(kind, when_to_use, content, where),
        kind=kind,
        when_to_use=when_to_use,
        content=content,
        keys=MemoryKeys(
            situation=when_to_use,
            query=query or generalise(first.task.prompt),
            task=first.task.prompt,
            tools=tool_names(used),
        ),
        scope=where,
        evidence=Evidence(
            trajectories=tuple(dict.fromkeys(t.id for t in trajectories)),
            corrections=tuple(dict.fromkeys(c.id for c in corrections)),
            steps=() if step is None else (f"{first.id}:{step}",),
        ),
        calls=tuple(calls),
        support=len({t.id for t in trajectories}),
        confidence=confidence,
        origin=origin,
    )
