"""What a turn leaves for the next one: history, and the text that memories are recalled for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from agentkd.agents.review import Edit, Respond, Reviewed
from agentkd.agents.state import Run
from agentkd.protocols import Recaller
from agentkd.schema import Hit, Message, Reply, ToolCall, ToolResult

__all__ = ["call_text", "fitting", "next_history", "recall_state", "with_memory"]

RESULT_CHARS = 400


def call_text(call: ToolCall) -> str:
    """Return a call as the JSON text that local models write."""
    return json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)


def next_history(
    reply: Reply, reviewed: Sequence[Reviewed], results: Sequence[ToolResult]
) -> tuple[Message, ...]:
    """Return the assistant's message and its results.

    After an edit the message holds what was run and nothing else: words around a call would
    still say what was proposed.
    """
    calls = tuple(r.accepted or r.proposed for r in reviewed)
    message = reply.to_message()
    if any(isinstance(r.decision, Edit) for r in reviewed):
        text = "\n".join(call_text(call) for call in calls) if message.content.startswith("{") else ""
        message = message.model_copy(update={"content": text, "tool_calls": calls})
    return (
        message,
        *(_answer(call, r, result) for call, r, result in zip(calls, reviewed, results, strict=True)),
    )


def _answer(call: ToolCall, reviewed: Reviewed, result: ToolResult) -> Message:
    return Message(
        role="tool",
        content=result.content if result.ok else f"error: {result.error}",
        tool_call_id=call.id,
        name=call.name,
        origin="person" if isinstance(reviewed.decision, Respond) else "tool",
    )


def recall_state(run: Run) -> str:
    """Return the situation to recall for: the request, then also the last turn."""
    if not run.steps:
        return run.task.prompt
    last = run.steps[-1]
    lines = [
        f"{call_text(call)} -> {(result.content or result.error)[:RESULT_CHARS]}"
        for call, result in zip(last.accepted_calls, last.results, strict=True)
    ]
    return "\n".join([run.task.prompt, *lines])


def fitting(recaller: Recaller, hits: Sequence[Hit]) -> Sequence[Hit]:
    """Return the hits that a recaller's notes show: what is left out of them was never seen."""
    chosen: Callable[[Sequence[Hit]], Sequence[Hit]] | None = getattr(recaller, "fitting", None)
    return hits if chosen is None else chosen(hits)


def with_memory(run: Run, text: str) -> Run:
    """Put recalled memory where the model reads it: before the request, later before the last result."""
    if not text:
        return run
    if not run.history:
        return run.model_copy(update={"memory": text})
    *before, last = run.history
    joined = last.model_copy(update={"content": f"{text}\n\n{last.content}"})
    return run.model_copy(update={"history": (*before, joined)})
