"""Which seeds a teacher is asked about, and what it is told about them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agentkd.hf import call_text
from agentkd.schema import Memory, Mistake, StudentReport, ToolCall, ToolSpec, Trajectory

__all__ = [
    "accepted_of",
    "drawn",
    "lessons_text",
    "request_text",
    "said_text",
    "student_text",
    "tool_texts",
    "wrong_ones",
]

_MARKS = 12  # of the student's figures that a prompt shows
_REQUEST = 2000  # characters


def wrong_ones(
    seeds: Sequence[Trajectory], report: StudentReport, written: Mapping[str, int] | None = None
) -> Iterator[tuple[Trajectory, Mistake, int]]:
    """Yield what the student got wrong, each tool in its share, hardest first; then again as the next series.

    A tool with twice the mistakes comes twice as often, and no tool waits until another one is through. Items
    that were `written` for a tool after earlier reports count in its share: else one that the student does
    not learn would take the place of all others, round after round.
    """
    given = written or {}
    by_id = {seed.id: seed for seed in seeds}
    tools: dict[str, list[Mistake]] = defaultdict(list)
    for mistake in report.mistakes:
        if mistake.trajectory_id in by_id and mistake.accepted:
            tools[mistake.tool].append(mistake)
    placed = [
        ((given.get(tool, 0) + rank + 0.5) / len(group), tool, mistake)
        for tool, group in tools.items()
        for rank, mistake in enumerate(group)
    ]
    order = [mistake for _, _, mistake in sorted(placed, key=lambda p: (p[0], p[1]))]
    series = 1
    while order:
        yield from ((by_id[mistake.trajectory_id], mistake, series) for mistake in order)
        series += 1


def drawn(seeds: Sequence[Trajectory], seed: int) -> Iterator[tuple[Trajectory, int]]:
    """Yield seeds whose answer is known in a random order, then again in another one as the next series."""
    known = [one for one in seeds if said_text(*accepted_of(one))]
    series = 1
    while known:
        order = list(known)
        random.Random(f"{seed}-{series}").shuffle(order)
        yield from ((one, series) for one in order)
        series += 1


def accepted_of(seed: Trajectory) -> tuple[Sequence[ToolCall], str]:
    """Return what is right for a seed's task: as the grader says, else what a successful run did."""
    outcome = seed.outcome
    if outcome is not None and (outcome.expected or outcome.expected_answer):
        return outcome.expected, "" if outcome.expected else outcome.expected_answer
    if not seed.success:
        return (), ""
    return [call for step in seed.steps for call in step.accepted_calls], seed.answer


def said_text(calls: Iterable[ToolCall], answer: str) -> str:
    """Return calls as JSON, one a line, or the text where there are none."""
    return "\n".join(call_text(call) for call in calls) or answer


def student_text(report: StudentReport) -> str:
    """Return the student's figures, one JSON object a line: all tasks first, then the weakest tools."""
    whole = {"all": report.suite or "tasks", "tasks": report.n, "done": round(report.success.value, 3)}
    lines: list[dict[str, object]] = [whole]
    lines += [
        {mark.kind: mark.name, "tasks": mark.n, "done": round(mark.success.value, 3)}
        for mark in report.marks
        if mark.kind != "group"
    ][:_MARKS]
    if report.n_format_errors:
        lines.append({"format errors": report.n_format_errors})
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


def tool_texts(tools: Sequence[ToolSpec], names: Iterable[str]) -> tuple[str, str]:
    """Return the named tools, one JSON object a line, and the names of the others."""
    wanted = set(names)
    shown = [
        json.dumps(tool.model_dump(include={"name", "description", "parameters"}), ensure_ascii=False)
        for tool in tools
        if tool.name in wanted
    ]
    others = [tool.name for tool in tools if tool.name not in wanted]
    return "\n".join(shown) or "none", ", ".join(others) or "none"


def request_text(seed: Trajectory) -> str:
    """Return what the task asked."""
    return f"{seed.task.system}\n\n{seed.task.prompt}".strip()[:_REQUEST]


def lessons_text(memories: Sequence[Memory]) -> str:
    """Return lessons as lines."""
    return "\n".join(f"- When {m.when_to_use}: {m.content}" for m in memories) or "none"
