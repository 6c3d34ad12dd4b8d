"""The distiller `correction`: what a person said becomes a rule (after DROC, arXiv 2311.10678).

Without a model, structure decides: which value stood in the end, and whether it is read from the request or
always the same. With one, the model first says what each correction is about and how much history it needs;
then it words the rules from the whole sequence, having seen that history and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agentkd.distill.ask import Asker, AskSettings, Finds, Refusal, read_json
from agentkd.distill.candidate import candidate
from agentkd.distill.case import CaseSettings, corrected_case
from agentkd.distill.evidence import correction_words, find_quote, span_of
from agentkd.distill.finding import Finding, Notice, Rejection
from agentkd.distill.lesson import examine, refused
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.revision import (
    Change,
    about,
    accepted_last,
    by_trajectory,
    final_changes,
    has_word,
    in_order,
    is_in_tools_place,
    is_instance,
    is_verdict,
    overruled_values,
    proposed_of,
    relative,
    source_of,
    standing_remarks,
)
from agentkd.distill.source import generalise, shorten, tool_names, transcript
from agentkd.errors import ModelError
from agentkd.hf import call_text
from agentkd.protocols import Kit, Model
from agentkd.schema import Correction, Memory, Scope, Span, Trajectory, canonical_json

__all__ = ["CorrectionDistiller", "CorrectionSettings", "build_correction"]

_BY_A_PERSON = 0.95  # a rule that a person gave goes before the exemplars of the same run
_SEEN_ONCE = 0.92

_KINDS = {
    "plan": "constraint",
    "constraint": "constraint",
    "parameter": "parameter",
    "preference": "preference",
}
_History = Literal["last-step", "first-request", "whole-task", "none"]


class CorrectionSettings(AskSettings):
    """`[distiller.correction]`."""

    use_model: Literal["auto", "never", "always"] = "auto"
    """Whether the model of the role `distiller` words the rules; `auto` asks it where the role is filled."""
    max_lessons: int = Field(default=3, ge=1)
    """Rules that one answer of the model may hold."""


class _Label(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=0)
    about: Literal["plan", "parameter", "preference"]
    history: _History


class _Labels(BaseModel):
    model_config = ConfigDict(extra="forbid")

    labels: list[_Label]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    about: Literal["plan", "parameter", "preference"]
    when_to_use: str = Field(min_length=8, max_length=300)
    query: str = Field(min_length=1, max_length=300)
    lesson: str = Field(min_length=8, max_length=600)
    quote: str = Field(min_length=1, max_length=600)
    confidence: float = Field(ge=0.0, le=1.0)


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lessons: list[_Rule]


Corrected = tuple[Trajectory, list[Correction]]


class CorrectionDistiller(Finds):
    """Keep what a person said: accepted calls as cases, the rest as general rules."""

    name = "correction"

    def __init__(self, settings: CorrectionSettings | None = None) -> None:
        self.settings = settings or CorrectionSettings()
        self._asker = Asker(self.name, self.settings)

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]:
        """Yield the cases and rules of each corrected trajectory."""
        given = by_trajectory(corrections)
        corrected = [(t, given[t.id]) for t in trajectories if t.id in given]
        for trajectory, said in corrected:
            for correction in accepted_last(said):
                yield from corrected_case(trajectory, correction, kit, self.name, CaseSettings())
        by_people = [(t, in_order(filter(_is_lesson, said))) for t, said in corrected]
        by_people = [(t, said) for t, said in by_people if said]
        if by_people:
            yield from self._rules(by_people, kit)

    def _rules(self, sequences: list[Corrected], kit: Kit) -> Iterator[Finding]:
        use = self.settings.use_model
        if use == "always" or (use == "auto" and kit.settings.roles.distiller):
            yield from self._worded(sequences, kit)
        else:
            yield from _structural_rules(sequences, kit.settings.memory.scope)

    def _worded(self, sequences: list[Corrected], kit: Kit) -> Iterator[Finding]:
        model = self._asker.teacher(kit)
        unread: list[Corrected] = []
        for sequence, answer in self._asker.each(sequences, lambda s: self._ask(s, model), kit):
            if isinstance(answer, (Refusal, ModelError)):
                yield self._asker.failure(sequence[:1], answer)
                unread.append(sequence)
                continue
            for rule in answer:
                yield self._examined(sequence, rule, kit.settings.memory.scope)
        if unread:
            yield Notice(distiller=self.name, text=f"{len(unread)} sequences were read by structure instead")
            yield from _structural_rules(unread, kit.settings.memory.scope)

    def _ask(self, sequence: Corrected, model: Model) -> list[_Rule] | Refusal:
        """Label each correction, then distil the sequence with just the history that it needs."""
        trajectory, said = sequence
        numbered = "\n".join(f"{i}. {_said(correction, trajectory)}" for i, correction in enumerate(said))
        prompt = load_prompt("correction-label", self.settings.prompts)
        labels = self._asker.ask(
            model,
            fill(prompt, {"corrections": numbered}),
            _Labels.model_json_schema(),
            lambda text: _read_labels(text, len(said)),
        )
        if isinstance(labels, Refusal):
            return labels
        limit = self.settings.max_transcript_chars // len(said)
        parts = []
        for label, correction in zip(labels, said, strict=True):
            history = _history(label.history, trajectory, correction, limit)
            parts.append(f"{label.number}. ({label.about}) {_said(correction, trajectory)}")
            parts.extend([f"What it refers to:\n{history}"] if history else [])
        slots = {"corrections": "\n".join(parts), "max_lessons": str(self.settings.max_lessons)}
        schema = _Rules.model_json_schema()
        schema["properties"]["lessons"]["maxItems"] = self.settings.max_lessons
        prompt = load_prompt("correction", self.settings.prompts)
        return self._asker.ask(model, fill(prompt, slots), schema, self._read_rules)

    def _read_rules(self, text: str) -> list[_Rule]:
        rules = _Rules.model_validate(read_json(text)).lessons
        if len(rules) > self.settings.max_lessons:
            raise ValueError(f"lessons: at most {self.settings.max_lessons}, not {len(rules)}")
        return rules

    def _examined(self, sequence: Corrected, rule: _Rule, scope: Scope) -> Memory | Rejection:
        trajectory, said = sequence
        span = examine(self.name, rule.lesson, rule.quote, [trajectory], said)
        if isinstance(span, Rejection):
            return span
        if why := _overruled(rule, trajectory, said):
            return refused(self.name, [trajectory], rule.lesson, "overruled", why)
        return _rule(
            _KINDS[rule.about],
            relative(rule.when_to_use, trajectory),
            relative(rule.lesson, trajectory),
            sequence,
            scope,
            confidence=rule.confidence,
            query=rule.query,
            said=said,
            spans=[span],
        )


def _is_lesson(correction: Correction) -> bool:
    """Whether the words of a correction may be a rule: a person's, and not what a tool should have said."""
    return correction.source == "person" and not is_in_tools_place(correction)


def _structural_rules(sequences: Sequence[Corrected], scope: Scope) -> Iterator[Finding]:
    """Yield the rules that the structure of corrections gives, without a model."""
    seen: dict[tuple[str, str, str], _Seen] = {}
    for trajectory, said in sequences:
        for change in final_changes(trajectory, said):
            seen.setdefault(_key(change), _Seen()).add(change, trajectory)
    for sequence in sequences:
        trajectory, said = sequence
        for change in final_changes(trajectory, said):
            yield _parameter(change, sequence, scope, seen[_key(change)])
        for correction in standing_remarks(said):
            topic = about(correction, proposed_of(correction, trajectory))
            if topic == "plan" or not (correction.accepted or correction.accepted_answer):
                said_so = "" if is_verdict(correction.text) else relative(correction.text, trajectory)
                text = said_so or _plan_text(correction)
                if text:
                    yield _rule(
                        _KINDS[topic], generalise(trajectory.task.prompt), text, sequence, scope,
                        confidence=_BY_A_PERSON, said=[correction],
                    )  # fmt: skip


class _Seen:
    """Where a value was accepted: in how many tasks, however often each was tried, and where it came from."""

    def __init__(self) -> None:
        self.tasks = set[tuple[str, str]]()
        self.sources = set[str]()

    def add(self, change: Change, trajectory: Trajectory) -> None:
        """Count one run in which a change stood in the end."""
        task = trajectory.task
        self.tasks.add((task.suite, task.group or task.id))
        self.sources.add(source_of(change, trajectory))


def _key(change: Change) -> tuple[str, str, str]:
    return change.tool, change.parameter, canonical_json([change.is_left_out, change.value])


def _parameter(change: Change, sequence: Corrected, scope: Scope, seen: _Seen) -> Memory | Rejection:
    """Word one parameter's final value: where to read it, or the constant that it always is."""
    where, n_tasks = source_of(change, sequence[0]), len(seen.tasks)
    name = f"`{change.parameter}`"
    if change.is_left_out:
        what = f"leave out {name}"
    elif where == "request":
        what = f"take {name} from the request"
    elif where and len(seen.sources) == 1:
        what = f"take {name} from the result of `{where}`"
    elif is_instance(change.value) and n_tasks == 1:
        return refused(
            CorrectionDistiller.name, sequence[:1], f"{change.tool}: {change.parameter}", "instance-value",
            f"the value {shorten(repr(change.value), 80)} belongs to one instance and was accepted once",
        )  # fmt: skip
    else:
        what = f"set {name} to {change.value!r}"
    return _rule(
        "parameter",
        f"a call of `{change.tool}` is due",
        f"When calling `{change.tool}`, {what}.",
        sequence,
        scope,
        confidence=_BY_A_PERSON if n_tasks > 1 or where else _SEEN_ONCE,
        said=[change.correction],
    )


def _rule(
    kind: str,
    when_to_use: str,
    text: str,
    sequence: Corrected,
    scope: Scope,
    *,
    confidence: float,
    said: Sequence[Correction],
    query: str = "",
    spans: Sequence[Span] = (),
) -> Memory:
    """Make a rule; a preference stays with the user where the workspace has one, and out of the weights."""
    trajectory = sequence[0]
    is_personal = kind == "preference" and bool(scope.user)
    return candidate(
        kind,
        when_to_use,
        text,
        trajectories=[trajectory],
        scope=scope,
        origin=CorrectionDistiller.name,
        confidence=confidence,
        step=said[0].step if said else None,
        tools=tool_names([call for c in said for call in (*c.accepted, *c.proposed)]),
        corrections=said,
        query=query,
        spans=spans or [span_of(correction_words(correction)) for correction in said],
        privacy="private" if is_personal else "shared",
    )


def _plan_text(correction: Correction) -> str:
    before = ", ".join(f"`{call.name}`" for call in correction.proposed)
    after = ", ".join(f"`{call.name}`" for call in correction.accepted)
    if after and before:
        return f"Call {after} in place of {before}."
    return f"Do not call {before} here." if before else ""


def _said(correction: Correction, trajectory: Trajectory) -> str:
    parts = [shorten(correction.text, 400)]
    proposed = proposed_of(correction, trajectory)
    if proposed and correction.accepted:
        parts.append(f"Proposed: {'; '.join(call_text(call) for call in proposed)}")
    if correction.accepted:
        parts.append(f"Accepted: {'; '.join(call_text(call) for call in correction.accepted)}")
    elif correction.accepted_answer:
        parts.append(f"Accepted: {shorten(correction.accepted_answer, 400)}")
    return shorten(" ".join(parts), 1200).replace("</", "< /")


def _history(label: _History, trajectory: Trajectory, correction: Correction, limit: int) -> str:
    if label == "none":
        return ""
    if label == "first-request":
        return shorten(trajectory.task.prompt, limit).replace("</", "< /")
    if label == "whole-task":
        whole = transcript(trajectory, (), limit=limit)
        return f"Request: {shorten(trajectory.task.prompt, limit)}\n{whole}".replace("</", "< /")
    step = len(trajectory.steps) if correction.step is None else correction.step + 1
    alone = trajectory.model_copy(
        update={
            "steps": trajectory.steps[max(step - 1, 0) : step],
            "answer": "",
            "outcome": None,
            "failure": None,
        }
    )
    return transcript(alone, (), limit=limit)


def _read_labels(text: str, n: int) -> list[_Label]:
    labels = sorted(_Labels.model_validate(read_json(text)).labels, key=lambda label: label.number)
    if [label.number for label in labels] != list(range(n)):
        raise ValueError(f"labels: give one label for each number from 0 to {n - 1}")
    return labels


def _overruled(rule: _Rule, trajectory: Trajectory, said: Sequence[Correction]) -> str:
    """Return why a rule rests on what a later correction took back; empty where it does not."""
    for value, stood in overruled_values(trajectory, said):
        if has_word(str(value), rule.lesson) and not has_word(str(stood), rule.lesson):
            return f"it teaches {value!r}, which a later correction overruled with {stood!r}"
    standing = {correction.id for correction in accepted_last(said)}
    holders = [c for c in said if isinstance(find_quote(rule.quote, [correction_words(c)]), Span)]
    if holders and all(c.accepted and c.id not in standing for c in holders):
        return "it quotes only what a later correction overruled"
    return ""


def build_correction(settings: CorrectionSettings, kit: Kit) -> CorrectionDistiller:
    """Build the component `correction`."""
    return CorrectionDistiller(settings)
