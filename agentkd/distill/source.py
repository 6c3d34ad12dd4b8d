"""What a lesson may rest on: the request, the calls and shortened results; never recalled text.

Of `Trajectory.messages` only later turns of the user are read, without the notes that a recall renders into
messages: a lesson made from another lesson would corroborate itself. What the conversation held before the
request (`Trajectory.earlier`) is told with it: `yes, the second one` alone says nothing. Tool results are
kept as data on one line, so that they cannot imitate the layout around them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentkd.config import TrustSettings
from agentkd.hf import call_text
from agentkd.schema import (
    Correction,
    Scope,
    Step,
    Task,
    ToolCall,
    Trajectory,
    user_turns,
)
from agentkd.trust import trust_of_run

__all__ = [
    "INSTANCE",
    "UNTOLD",
    "generalise",
    "memory_scope",
    "shorten",
    "state_text",
    "tool_names",
    "transcript",
]

UNTOLD = "(output of an untrusted tool)"
"""Stands in a state for what an untrusted tool brought in."""

_BEFORE_STATE, _BEFORE_TRANSCRIPT = 3, 12  # messages of before the request that are told, the newest

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
INSTANCE = re.compile(
    rf"""
    "[^"]{{1,200}}" | “[^”]{{1,200}}” | (?<!\w)'[^']{{1,200}}'(?!\w)   # quoted text
    | \b[^\s@]{{1,64}}@\S+\.\w+\b | \bhttps?://\S+                                # addresses
    | \b\d{{4}}-\d\d?-\d\d?(?:[T ]\d\d:\d\d\S*)? | \b\d\d?[./]\d\d?[./]\d{{2,4}}\b
    | \b{_MONTH}\s+\d\d?(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b            # March 3rd, 2024
    | \b\d\d?(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:,?\s+\d{{4}})?\b  # 3rd of March 2024
    | \b\d\d?:\d\d(?:\s*[ap]\.?m\.?)?\b | [-+$€£]?\b\d[\d.,]*\b%?      # times and numbers
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What belongs to one instance: quoted text, addresses, dates, times and numbers."""


def generalise(request: str) -> str:
    """Return a request without quoted text, dates, addresses and numbers: what kind of thing is asked."""
    general = re.sub(r"\s+([,.;:?!])", r"\1", " ".join(INSTANCE.sub(" ", request).split()))
    return general if any(letter.isalpha() for letter in general) else " ".join(request.split())


def shorten(text: str, limit: int) -> str:
    """Return a text on one line and at most `limit` characters long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: max(limit - 3, 0)] + "..."


def tool_names(calls: Sequence[ToolCall]) -> str:
    """Return the distinct tool names of some calls, first use first."""
    return " ".join(dict.fromkeys(call.name for call in calls))


def memory_scope(task: Task, scope: Scope) -> Scope:
    """Return the workspace's scope narrowed to the task's suite; ad-hoc requests keep it as it is."""
    return scope.of_suite(task.suite)


def state_text(
    trajectory: Trajectory, index: int, *, limit: int = 160, trust: TrustSettings | None = None
) -> str:
    """Return what was known before step `index`: the request, then each earlier call and its result.

    A request that goes on with a conversation is followed, in brackets, by what user and agent said last.
    With `trust`, the output of untrusted tools is named and not told: a case must not carry it on. Nor is
    what the agent said before the request, where it had read such output by then.
    """
    known = trust_of_run(trajectory, trust) if trust is not None and trust.gate else None
    hidden = {(found.step, found.number) for found in known.outside} if known is not None else set()
    is_tainted = known is not None and known.is_tainted(0)
    lines = [" ".join(trajectory.task.prompt.split()) + _before(trajectory, limit, is_tainted)]
    said = user_turns(trajectory)
    for step in trajectory.steps[:index]:
        for number, (call, result) in enumerate(zip(step.accepted_calls, step.results, strict=False)):
            text = result.error or result.content
            told = UNTOLD if (step.index, number) in hidden else shorten(text, limit)
            lines.append(f"{call_text(call)} -> {told}")
        lines.extend(f"User: {shorten(text, limit)}" for text in said.get(step.index, ()))
    return "\n".join(lines)


def _before(trajectory: Trajectory, limit: int, is_tainted: bool) -> str:
    told = ("user",) if is_tainted else ("user", "assistant")
    said = [message for message in trajectory.earlier if message.role in told][-_BEFORE_STATE:]
    text = "; ".join(f"{message.role}: {shorten(message.content, limit)}" for message in said)
    return f" (before it, {text})" if text else ""


def transcript(trajectory: Trajectory, corrections: Sequence[Correction], *, limit: int = 6000) -> str:
    """Return a trajectory as numbered lines for a language model.

    Args:
        trajectory: What happened.
        corrections: Corrections of this trajectory, told after the steps.
        limit: Longest text in characters; the middle steps give way first.
    """
    said = user_turns(trajectory)
    lines = [
        f"Before the request, {message.role}: {shorten(message.content, 300)}"
        for message in trajectory.earlier[-_BEFORE_TRANSCRIPT:]
    ]
    for step in trajectory.steps:
        lines.extend(_step_lines(step))
        lines.extend(
            f"Step {step.index}, the user answers: {shorten(t, 600)}" for t in said.get(step.index, ())
        )
    if trajectory.answer:
        lines.append(f"Final answer: {shorten(trajectory.answer, 600)}")
    lines.extend(_ending(trajectory))
    lines.extend(_correction_line(correction) for correction in corrections)
    return _neutral(_middle_out(lines, limit))


def _step_lines(step: Step) -> list[str]:
    lines, index = [], step.index
    if step.reply.content and not step.reply.tool_calls:
        lines.append(f"Step {index}, the agent says: {shorten(step.reply.content, 600)}")
    if step.reply.tool_calls and step.reply.tool_calls != step.accepted_calls:
        proposed = "; ".join(call_text(call) for call in step.reply.tool_calls)
        lines.append(f"Step {index}, proposed but not executed: {shorten(proposed, 600)}")
    for number, call in enumerate(step.accepted_calls):
        lines.append(f"Step {index}, call: {shorten(call_text(call), 600)}")
        if number < len(step.results):
            result = step.results[number]
            word = "error" if result.error else "result"
            lines.append(f"Step {index}, {word}: {shorten(result.error or result.content, 400)}")
    return lines


def _ending(trajectory: Trajectory) -> list[str]:
    lines = []
    if trajectory.failure is not None:
        lines.append(f"The run broke off ({trajectory.failure.kind}): {trajectory.failure.message}")
    if trajectory.outcome is not None:
        word = "done" if trajectory.outcome.success else "not done"
        lines.append(f"Outcome: {word}. {shorten(trajectory.outcome.feedback, 400)}".rstrip())
    return lines


def _correction_line(correction: Correction) -> str:
    where = "" if correction.step is None else f" of step {correction.step}"
    accepted = "; ".join(call_text(call) for call in correction.accepted) or correction.accepted_answer
    line = f"Correction{where} by the {correction.source}: {shorten(correction.text, 400)}"
    return f"{line} Accepted: {shorten(accepted, 600)}" if accepted else line


def _middle_out(lines: Sequence[str], limit: int) -> str:
    """Keep the first and the last lines: how it began and how it ended say most."""
    if sum(len(line) + 1 for line in lines) <= limit:
        return "\n".join(lines)
    head: list[str] = []
    tail: list[str] = []
    room, i, j = limit, 0, len(lines) - 1
    while i <= j:
        line = lines[j] if len(tail) <= len(head) else lines[i]
        if len(line) + 1 > room:
            break
        room -= len(line) + 1
        if len(tail) <= len(head):
            tail.append(line)
            j -= 1
        else:
            head.append(line)
            i += 1
    return "\n".join([*head, f"({j - i + 1} lines left out)", *reversed(tail)])


def _neutral(text: str) -> str:
    """Break tags inside data, so that data cannot close the element that it stands in."""
    return text.replace("</", "< /")
