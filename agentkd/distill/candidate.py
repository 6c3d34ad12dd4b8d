"""Builds candidate memories: ids by content, scope by suite, evidence by trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentkd.distill.evidence import Words, span_of
from agentkd.distill.source import generalise, memory_scope, tool_names
from agentkd.schema import (
    Correction,
    Evidence,
    Memory,
    MemoryKeys,
    Scope,
    Span,
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
    tools: str = "",
    spans: Sequence[Span] = (),
    privacy: Literal["shared", "private"] = "shared",
    extras: Mapping[str, Any] | None = None,
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
        tools: Names of the tools involved; those of `calls` or of the trajectories where empty.
        spans: The words that it was read from; the request itself where none are given.
        privacy: `private` keeps it out of the weights.
        extras: Further data.
    """
    first = trajectories[0]
    where = memory_scope(first.task, scope)
    return Memory(
        id=memory_id(kind, when_to_use, content, where),
        kind=kind,
        when_to_use=when_to_use,
        content=content,
        keys=MemoryKeys(
            situation=when_to_use,
            query=query or generalise(first.task.prompt),
            task=first.task.prompt,
            tools=tools or _tools(calls, trajectories),
        ),
        scope=where,
        evidence=_evidence(trajectories, step, corrections, spans),
        calls=tuple(calls),
        support=len({t.id for t in trajectories}),
        confidence=confidence,
        origin=origin,
        privacy=privacy,
        extras=dict(extras or {}),
    )


def _tools(calls: Sequence[ToolCall], trajectories: Sequence[Trajectory]) -> str:
    return tool_names(calls or [c for t in trajectories for s in t.steps for c in s.accepted_calls])


def _evidence(
    trajectories: Sequence[Trajectory],
    step: int | None,
    corrections: Sequence[Correction],
    spans: Sequence[Span],
) -> Evidence:
    first = trajectories[0]
    request = span_of(Words(first.id, "user", -1, first.task.prompt))
    return Evidence(
        trajectories=tuple(dict.fromkeys(t.id for t in trajectories)),
        corrections=tuple(dict.fromkeys(c.id for c in corrections)),
        steps=() if step is None else (f"{first.id}:{step}",),
        spans=tuple(spans) or (request,),
    )
