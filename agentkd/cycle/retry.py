"""Retries of a run: lessons of a failed try by the configured distillers, and what they did not help.

A retry that was handed the right answer would prove nothing. So the distillers see the failed tries without
the accepted calls and answers: only the grader's words, with every accepted value masked, and the errors of
tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentkd.cycle.asking import asking_kit
from agentkd.cycle.parts import Parts
from agentkd.errors import ModelError
from agentkd.protocols import Kit
from agentkd.schema import Correction, Hit, Memory, Outcome, Span, Trajectory
from agentkd.trust import VOUCHING, heard_after

if TYPE_CHECKING:
    from agentkd.agents import Lessons, Retries

__all__ = ["proven", "retries_of"]

CONFIDENCE = 0.6
"""Confidence of a warning: it was proven once, by the try that it rescued."""
MAX_QUOTE = 240
"""Longest quote of a tool's error or a grader's words."""

_ACCEPTED = re.compile(r"\s*Accepted: .*", re.DOTALL)
_MASK = "..."


def retries_of(parts: Parts) -> Retries | None:
    """Return how failed training tasks are tried again; None where `[run] retries` is 0."""
    from agentkd.agents import Retries

    if not parts.settings.run.retries:
        return None

    kit = asking_kit(parts)

    def keep(memories: Sequence[Memory]) -> None:
        parts.memory.admit(memories)

    def known() -> set[str]:
        memories = parts.ledger.memories.list()
        return {id_ for memory in memories for id_ in memory.evidence.trajectories}

    return Retries(parts.settings.run.retries, lambda failed: _lessons(parts, failed, kit), keep, known)


def proven(
    memories: Sequence[Memory], trajectories: Sequence[Trajectory], corrections: Sequence[Correction]
) -> list[Memory]:
    """Leave out lessons that rest on nothing but failed tries which no retry rescued.

    Such a lesson was read by a retry and did not help. What rests on a call or an answer that a person or a
    grader gave stays.
    """
    from agentkd.agents import unrescued

    refuted = unrescued(trajectories)
    accepted = {c.id for c in corrections if c.source in VOUCHING and (c.accepted or c.accepted_answer)}
    return [
        memory
        for memory in memories
        if not refuted.issuperset(memory.evidence.trajectories)
        or accepted.intersection(memory.evidence.corrections)
    ]


def _lessons(parts: Parts, failed: Sequence[Trajectory], kit: Kit) -> Lessons:
    """Distil failed tries into notes for the next one and into candidates."""
    from agentkd.agents import Lessons, retry_note

    blind = [_without_answer(trajectory) for trajectory in failed]
    note = retry_note(blind, lambda trajectory: trajectory.outcome.feedback if trajectory.outcome else "")
    memories = _distilled(parts, blind, kit)
    shown = parts.memory.render([Hit(memory=memory, score=1.0) for memory in memories])
    notes = "\n\n".join(text for text in (shown, note) if text)
    return Lessons(notes=notes, heard=heard_after(*failed), memories=(*memories, *_warnings(parts, blind)))


def _distilled(parts: Parts, blind: Sequence[Trajectory], kit: Kit) -> list[Memory]:
    """Return the lessons of the distillers; a `case` is an answer and no lesson."""
    from agentkd.distill import distill_report

    words = [
        _without_accepted(correction, trajectory)
        for trajectory in blind
        for correction in parts.ledger.corrections.for_trajectory(trajectory.id)
    ]
    distillers = [distiller for distiller in parts.distillers() if distiller.name != "case"]
    try:
        distilled = distill_report(blind, words, distillers, kit, parts.settings.distill)
    except ModelError:  # the grader's words and the tools' errors still make a note
        return []
    return [memory for memory in distilled.memories if memory.kind != "case"]


def _warnings(parts: Parts, blind: Sequence[Trajectory]) -> Iterator[Memory]:
    """Yield what graders and tools said of the failed tries as pitfalls: lessons that need no model.

    The note says the same in other words, so they are not shown beside it.
    """
    from agentkd.distill import candidate, generalise
    from agentkd.distill.revision import relative

    for trajectory in blind:
        errors = [(i, r.error) for i, step in enumerate(trajectory.steps) for r in step.results if r.error]
        feedback = trajectory.outcome.feedback if trajectory.outcome else ""
        for step, said in dict.fromkeys([*errors, (-1, feedback)]):
            if said and (step < 0 or said not in feedback):
                yield candidate(
                    "pitfall",
                    generalise(trajectory.task.prompt),
                    f"A try failed with: {relative(said, trajectory)}",
                    trajectories=[trajectory],
                    scope=parts.settings.memory.scope,
                    origin="retry",
                    confidence=CONFIDENCE,
                    step=None if step < 0 else step,
                    spans=[_span(trajectory.id, step, said)],
                )


def _span(trajectory_id: str, step: int, said: str) -> Span:
    return Span(
        trajectory=trajectory_id, origin="grader" if step < 0 else "tool", step=step, quote=said[:MAX_QUOTE]
    )


def _without_answer(trajectory: Trajectory) -> Trajectory:
    """Return a try without what its grader accepts; the words lose every value that only the answer holds."""
    outcome = trajectory.outcome or Outcome(success=False)
    feedback = _masked(outcome.feedback, trajectory, outcome)
    blind = outcome.model_copy(update={"expected": (), "expected_answer": "", "feedback": feedback})
    return trajectory.model_copy(update={"outcome": blind})


def _without_accepted(correction: Correction, blind: Trajectory) -> Correction:
    """Return a correction in words alone; what a tool accepted of the agent's own calls stays."""
    if correction.source == "tool":
        return correction
    said = blind.outcome.feedback if correction.source == "grader" and blind.outcome else correction.text
    return correction.model_copy(update={"text": said, "accepted": (), "accepted_answer": ""})


def _masked(feedback: str, trajectory: Trajectory, outcome: Outcome) -> str:
    """Mask accepted values in a grader's words, unless the request or the agent named them."""
    known = "\n".join(
        [trajectory.task.prompt, trajectory.answer]
        + [call.model_dump_json() for step in trajectory.steps for call in step.reply.tool_calls]
    ).lower()
    values = {text for call in outcome.expected for text in _leaves(call.arguments)} | {
        outcome.expected_answer
    }
    names = {call.name for call in outcome.expected}
    masked = _ACCEPTED.sub("", feedback)  # the suite `jsonl` ends its words with every accepted answer
    for value in sorted(values | names, key=len, reverse=True):
        if value and value.lower() not in known:
            masked = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", _MASK, masked, flags=re.IGNORECASE)
    return masked


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value).strip()
