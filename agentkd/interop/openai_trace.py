"""Read agent traces in the OpenAI message format with rewards, such as those that tau-bench writes.

Keys of a record (a list of them in one JSON file, or one per line)::

    task_id              what was attempted; records of one `task_id` are attempts at one task
    messages or traj     the conversation: system, user, assistant with `tool_calls`, tool
    reward               number; 1 or more is success (a record without one is ungraded)
    trial                number of the attempt; without it, records count per task

Everything else is left alone: what a grader knew (`info`) never becomes part of a trajectory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkd.errors import DataError
from agentkd.interop.source import RecordError, json_records, parse_json, read_text
from agentkd.schema import Message, Outcome, Step, Task, ToolCall, ToolResult, Trajectory, content_id

__all__ = ["read_openai_traces"]

_ERROR = re.compile(r"\s*(error\b|traceback \(most recent call last\))", re.IGNORECASE)
_ORIGINS = {"system": "system", "developer": "system", "user": "user", "assistant": "model", "tool": "tool"}


def read_openai_traces(
    path: Path, *, suite: str = "imported", split: str = "train", vouched: bool = False
) -> list[Trajectory]:
    """Return one trajectory per record, in the order of the file; the same file gives the same ids.

    Args:
        path: File of records.
        suite: Suite that the tasks count to; one that is not installed is never run or graded anew.
        split: Split that the tasks count to; nothing is learnt from `holdout...` and `test...`.
        vouched: Whether a person answers for the file: else its rewards are claims.

    Raises:
        DataError: a record cannot be read; the file and the record are named, and nothing is returned.
    """
    text = read_text(path)
    run_id = content_id("run", "import", suite, split, text)
    seen: dict[str, int] = {}
    found = []
    for place, value in json_records(path, text):
        try:
            if isinstance(value, RecordError):
                raise value
            trajectory = _trajectory(value, seen, run_id, suite, split)
        except RecordError as error:
            raise DataError(
                f"`{path}`, {place}: {error}",
                hint="a record needs `task_id`, and `messages` or `traj` in the OpenAI format",
                path=str(path),
                line=place,
            ) from error
        found.append(trajectory if vouched else trajectory.model_copy(update={"imported_from": str(path)}))
    return found


def _trajectory(value: Any, seen: dict[str, int], run_id: str, suite: str, split: str) -> Trajectory:
    if not isinstance(value, Mapping):
        raise RecordError("is no object")
    raw = value.get("messages", value.get("traj"))
    if not isinstance(raw, list) or not raw:
        raise RecordError("has neither `messages` nor `traj`")
    if "task_id" not in value:
        raise RecordError("has no `task_id`")
    name = str(value["task_id"])
    attempt = value.get("trial", seen.get(name, 0))
    if not isinstance(attempt, int):
        raise RecordError(f"`trial` is `{attempt!r}`, not a whole number")
    seen[name] = seen.get(name, 0) + 1
    messages = tuple(_message(item, i) for i, item in enumerate(raw))
    request = next((m.content for m in messages if m.role == "user"), "")
    if not request.strip():
        raise RecordError("has no message of a user")
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    answer = messages[-1].content if messages[-1].role == "assistant" else ""
    return Trajectory(
        id=content_id("tra", suite, split, name, attempt, messages),
        run_id=run_id,
        task=Task(id=name, suite=suite, split=split, prompt=request, system=system, group=name),
        attempt=attempt,
        model=str(value.get("model", "imported")),
        messages=messages,
        steps=_steps(messages),
        answer=answer,
        outcome=_outcome(value),
    )


def _outcome(value: Mapping[str, Any]) -> Outcome | None:
    reward = value.get("reward")
    if reward is None:
        return None
    if isinstance(reward, bool) or not isinstance(reward, (int, float)):
        raise RecordError(f"`reward` is `{reward!r}`, not a number")
    return Outcome(success=reward >= 1.0, reward=min(max(float(reward), 0.0), 1.0), grader="imported")


def _message(item: Any, index: int) -> Message:
    if not isinstance(item, Mapping) or item.get("role") not in _ORIGINS:
        raise RecordError(f"message {index} has no role out of {', '.join(_ORIGINS)}")
    role: Any = "system" if item["role"] == "developer" else item["role"]
    calls = item.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RecordError(f"message {index}: `tool_calls` is no list")
    return Message(
        role=role,
        content=_text(item.get("content"), index),
        tool_calls=tuple(_call(call, index) for call in calls),
        tool_call_id=str(item.get("tool_call_id") or ""),
        name=str(item.get("name") or "") if role == "tool" else "",
        origin=_ORIGINS[item["role"]],  # type: ignore[arg-type]  # the table holds only these
    )


def _text(content: Any, index: int) -> str:
    """Return a message's text; of a list of parts, the parts that are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "\n".join(str(part.get("text") or "") for part in content if part.get("type") == "text")
    raise RecordError(f"message {index}: `content` is neither text nor a list of parts")


def _call(call: Any, index: int) -> ToolCall:
    """Return a call; arguments that are not a JSON object are kept as text under `arguments`."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError(f"message {index} has a call without a function's name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            parsed = parse_json(arguments)
        except RecordError:
            parsed = None
        arguments = parsed if isinstance(parsed, Mapping) else {"arguments": arguments}
    if not isinstance(arguments, Mapping):
        raise RecordError(f"message {index}: the arguments of `{function['name']}` are no object")
    return ToolCall(name=function["name"], arguments=dict(arguments), id=str(call.get("id") or ""))


def _steps(messages: Sequence[Message]) -> tuple[Step, ...]:
    """Return one step per message of the assistant, with the answers to its calls."""
    steps: list[Step] = []
    for position, message in enumerate(messages):
        if message.role != "assistant":
            continue
        later = messages[position + 1 :]
        end = next((i for i, m in enumerate(later) if m.role == "assistant"), len(later))
        answers = [m for m in later[:end] if m.role == "tool"]
        pairs = [(call, _answer_to(call, i, answers)) for i, call in enumerate(message.tool_calls)]
        done = [(call, answer) for call, answer in pairs if answer is not None]
        steps.append(
            Step(
                index=len(steps),
                reply=message,
                accepted_calls=tuple(call for call, _ in done),
                results=tuple(_result(answer.content) for _, answer in done),
            )
        )
    return tuple(steps)


def _answer_to(call: ToolCall, position: int, answers: Sequence[Message]) -> Message | None:
    """Return the answer to a call by its id, by its place where ids are missing; None where none came."""
    if call.id and any(answer.tool_call_id for answer in answers):
        return next((answer for answer in answers if answer.tool_call_id == call.id), None)
    return answers[position] if position < len(answers) else None


def _result(text: str) -> ToolResult:
    return ToolResult(error=text.strip()) if _ERROR.match(text) else ToolResult(content=text)
