"""The teacher of the stream: replies recorded in a file before the stream begins, found by what is asked.

The teacher is scripted and knows the accepted calls of the training split, as a strong model with the
grader's correction before it would. Every twelfth of its lessons is deliberately bad: words that nobody
said, a call that the grader refuses, or no JSON at all. What is bad must never become a memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd.hf import call_text
from agentkd.schema import Task, ToolCall

__all__ = ["BAD_WORDS", "record"]

HEADS = {
    "failure": "You study how an agent failed at a task",
    "success": "You study how an agent did a task",
    "contrast": "You compare two attempts of an agent",
}
STRATEGY = "You write guidance for an agent that fails"
NOTES = "You write a guideline for the use of one tool"
BAD_WORDS = "the moon told me so"
_EVERY, _MOST_CHARS = 12, 560


def record(path: Path, tasks: Sequence[Task], accepted: Mapping[str, ToolCall]) -> None:
    """Write the replies for these tasks; what the teacher has no answer to is said to be so."""
    lines = [
        line for i, task in enumerate(tasks) if task.id in accepted for line in _lines(i, task, accepted)
    ]
    lines += [
        {"when": [STRATEGY], "say": "I know of no guidance."},
        {"when": [NOTES], "say": "Nothing to note."},
    ]
    lines += [{"when": [head], "say": {"lessons": []}} for head in HEADS.values()]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _lines(number: int, task: Task, accepted: Mapping[str, ToolCall]) -> Iterator[dict[str, Any]]:
    call, request = accepted[task.id], " ".join(task.prompt.split())
    asked = request[:200].replace("</", "< /")
    for name, head in HEADS.items():
        yield {"when": [head, asked], "say": _lesson(number, name, request, call)}
    yield {
        "when": [STRATEGY, asked],
        "say": {
            "when_to_use": f"a request is like: {request[:200]}",
            "query": request[:280] or "a request",
            "strategy": f"Call `{call.name}` and take its arguments from the request.",
            "quote": request[:100],
        },
    }


def _lesson(number: int, name: str, request: str, call: ToolCall) -> Any:
    said = f"Call: {call_text(call)}"
    if len(said) > _MOST_CHARS:
        return {"lessons": []}
    lesson: dict[str, Any] = {
        "when_to_use": f"the request is: {request[:280]}"[:300],
        "query": request[:300],
        "lesson": said,
        "quote": request[:120],
        "key_step": 0,
        "confidence": 0.8,
        "call": {"name": call.name, "arguments": call.arguments},
    }
    if number % _EVERY == 0:
        lesson |= {"lesson": f"{said} {BAD_WORDS}", "quote": BAD_WORDS}
    elif number % _EVERY == 4:
        wrong = {"name": call.name, "arguments": {BAD_WORDS: 1}}
        lesson |= {"lesson": f"Call: {call_text(ToolCall(**wrong))}", "call": wrong}
    elif number % _EVERY == 8:
        return f"I would say, {BAD_WORDS}."
    return {"lessons": [lesson]}
