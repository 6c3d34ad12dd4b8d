"""The distiller `case`: keeps what was accepted as an exemplar, without a language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from agentkd.distill.candidate import candidate
from agentkd.distill.evidence import Words, correction_words, span_of
from agentkd.distill.revision import accepted_last, by_trajectory
from agentkd.distill.source import state_text
from agentkd.hf import call_text
from agentkd.protocols import Kit
from agentkd.schema import Correction, Memory, Scope, Span, ToolCall, Trajectory, Value

__all__ = ["CaseDistiller", "CaseSettings", "build_case", "corrected_case"]

_ACCEPTED_BY_AUTHORITY = 0.9  # a grader or a person said that it is right
_ACCEPTED_BY_OPINION = 0.6  # a judge model or a tool said so


class CaseSettings(Value):
    """`[distiller.case]`."""

    max_steps: int = Field(default=8, ge=1)
    """Cases that one trajectory of many steps may give; the first calls go first."""
    max_result_chars: int = Field(default=160, ge=16)
    """Longest part of an earlier result in the text of a state."""
    max_answer_chars: int = Field(default=800, ge=1)
    """Longer final answers without a call are no exemplar."""


class CaseDistiller:
    """Keep accepted calls as exemplars: `Request: ...` and `Call: {...}` (no model needed)."""

    name = "case"

    def __init__(self, settings: CaseSettings | None = None) -> None:
        self.settings = settings or CaseSettings()

    def distill(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Memory]:
        """Yield one case per correction with an accepted answer, and per call of a success."""
        given = by_trajectory(corrections)
        for trajectory in trajectories:
            for correction in accepted_last(given.get(trajectory.id, ())):
                yield from corrected_case(trajectory, correction, kit, self.name, self.settings)
            if trajectory.success:
                yield from self._successes(trajectory, kit)

    def _successes(self, trajectory: Trajectory, kit: Kit) -> Iterator[Memory]:
        scope, trust = kit.settings.memory.scope, kit.settings.trust
        steps = [step for step in trajectory.steps if step.accepted_calls and all(r.ok for r in step.results)]
        for step in steps[: self.settings.max_steps]:
            state = state_text(trajectory, step.index, limit=self.settings.max_result_chars, trust=trust)
            yield _case(trajectory, state, step.accepted_calls, "", step.index, (), scope, self.name)
        if not any(step.accepted_calls for step in trajectory.steps) and (
            0 < len(trajectory.answer) <= self.settings.max_answer_chars
        ):
            state = state_text(trajectory, 0, limit=self.settings.max_result_chars, trust=trust)
            yield _case(trajectory, state, (), trajectory.answer, None, (), scope, self.name)


def corrected_case(
    trajectory: Trajectory, correction: Correction, kit: Kit, origin: str, settings: CaseSettings
) -> Iterator[Memory]:
    """Yield the case of a correction; nothing where it accepted neither calls nor a short answer."""
    answer = correction.accepted_answer
    if not correction.accepted and not 0 < len(answer) <= settings.max_answer_chars:
        return
    last = 0 if correction.accepted else len(trajectory.steps)  # an answer for a whole run ends it
    step = last if correction.step is None else correction.step
    state = state_text(trajectory, step, limit=settings.max_result_chars, trust=kit.settings.trust)
    scope = kit.settings.memory.scope
    yield _case(trajectory, state, correction.accepted, answer, correction.step, (correction,), scope, origin)


def _case(
    trajectory: Trajectory,
    state: str,
    calls: Sequence[ToolCall],
    answer: str,
    step: int | None,
    corrections: Sequence[Correction],
    scope: Scope,
    origin: str,
) -> Memory:
    ordered = tuple(_in_schema_order(call, trajectory) for call in calls)
    said = "\n".join(f"Call: {call_text(call)}" for call in ordered) or f"Answer: {answer.strip()}"
    trusted = all(correction.source in ("person", "grader") for correction in corrections)
    return candidate(
        "case",
        state,
        f"Request: {state}\n{said}",
        trajectories=[trajectory],
        scope=scope,
        origin=origin,
        confidence=_ACCEPTED_BY_AUTHORITY if trusted else _ACCEPTED_BY_OPINION,
        step=step,
        calls=ordered,
        corrections=corrections,
        spans=_spans(trajectory, step, corrections),
    )


def _spans(trajectory: Trajectory, step: int | None, corrections: Sequence[Correction]) -> list[Span]:
    """Return the request and the words that made the calls right: a correction's, else the agent's own."""
    request = span_of(Words(trajectory.id, "user", -1, trajectory.task.prompt))
    if corrections:
        return [request, *(span_of(correction_words(correction)) for correction in corrections)]
    texts = [call_text(c) for c in trajectory.steps[step].accepted_calls] if step is not None else []
    said = texts or [trajectory.answer]
    return [request, *(span_of(Words(trajectory.id, "model", -1 if step is None else step, t)) for t in said)]


def _in_schema_order(call: ToolCall, trajectory: Trajectory) -> ToolCall:
    """Order arguments as the tool's schema does where the task names its tools, without the call's id.

    A provider's call id differs from run to run and must not change what is remembered.
    """
    properties: Mapping[str, Any] = {}
    for spec in trajectory.task.tools:
        if spec.name == call.name:
            properties = spec.parameters.get("properties", {})
    keys = [key for key in properties if key in call.arguments]
    keys += [key for key in call.arguments if key not in properties]
    return ToolCall(name=call.name, arguments={key: call.arguments[key] for key in keys})


def build_case(settings: CaseSettings, kit: Kit) -> CaseDistiller:
    """Build the component `case`."""
    return CaseDistiller(settings)
