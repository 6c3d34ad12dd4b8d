"""Distillers with a language model: `success`, `failure` and `contrast` (after ReMe, arXiv 2512.10696).

The answer is structured output. Every lesson quotes the record, and is accepted only where the quote stands
in it and was said by somebody who counts; a call that it claims to be right is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentkd.distill.ask import Asker, AskSettings, Finds, Refusal, read_json
from agentkd.distill.candidate import candidate
from agentkd.distill.evidence import find_quote, repeats_memory, words_of
from agentkd.distill.finding import Finding, Notice, Rejection, RejectReason
from agentkd.distill.pairing import best_successes, hard_pairs, soft_pairs, worst_failures
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.replay import replay_claim
from agentkd.distill.revision import by_trajectory
from agentkd.distill.source import shorten, transcript
from agentkd.errors import ModelError
from agentkd.protocols import Kit, Model
from agentkd.schema import Correction, Message, Span, ToolCall, Trajectory

__all__ = [
    "Claim",
    "ContrastSettings",
    "Lesson",
    "LessonDistiller",
    "LessonSettings",
    "build_contrast",
    "build_failure",
    "build_success",
    "examine",
    "refused",
]


class LessonSettings(AskSettings):
    """`[distiller.success]` and `[distiller.failure]`."""

    max_lessons: int = Field(default=3, ge=1)
    """Lessons that one answer may hold."""
    replay: bool = True
    """Whether a call that a lesson claims to be right is tried in the task's suite."""


class ContrastSettings(LessonSettings):
    """`[distiller.contrast]`."""

    pairing: Literal["hard", "soft"] = "hard"
    """`hard` compares attempts at one task; `soft` also gives a task with one side only the other side of
    the nearest task of its suite."""
    pair_above: float = Field(default=0.6, ge=-1.0, le=1.0)
    """Least cosine similarity of the two requests of a soft pair."""


class Claim(BaseModel):
    """A call that would have been right at the key step."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    arguments: dict[str, Any] = Field(default_factory=dict)

    def to_call(self) -> ToolCall:
        """Return the claim as a call."""
        return ToolCall(name=self.name, arguments=self.arguments)


class Lesson(BaseModel):
    """One lesson as a model writes it."""

    model_config = ConfigDict(extra="forbid")

    when_to_use: str = Field(min_length=8, max_length=300)
    query: str = Field(min_length=1, max_length=300)
    lesson: str = Field(min_length=8, max_length=600)
    quote: str = Field(min_length=1, max_length=600)
    key_step: int = Field(ge=-1)
    confidence: float = Field(ge=0.0, le=1.0)
    call: Claim | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lessons: list[Lesson]


@dataclass(frozen=True)
class _Question:
    trajectories: tuple[Trajectory, ...]
    corrections: tuple[Correction, ...]
    messages: tuple[Message, ...]


Pick = Callable[[Sequence[Trajectory], Kit], list[tuple[Trajectory, ...]]]


class LessonDistiller(Finds):
    """Ask the model of the role `distiller` for lessons on picked trajectories."""

    def __init__(self, name: str, kind: str, pick: Pick, settings: LessonSettings | None = None) -> None:
        """Make a distiller.

        Args:
            name: Name of the component and of its prompt file.
            kind: Kind of the memories.
            pick: Chooses what is asked about; each tuple is one question.
            settings: Options.
        """
        self.name = name
        self.kind = kind
        self.pick = pick
        self.settings = settings or LessonSettings()
        self._asker = Asker(name, self.settings)

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]:
        """Yield what was found in the order of the questions.

        Raises ConfigError where no model plays `distiller`, BudgetError where a ceiling is met, and
        ModelError where no question at all could be asked.
        """
        questions = self._questions(trajectories, corrections, kit)
        if not questions:
            return
        yield from _pair_counts(self.name, questions)
        answers = self._asker.each(questions, partial(self._ask, model=self._asker.teacher(kit)), kit)
        for question, answer in answers:
            if isinstance(answer, (Refusal, ModelError)):
                yield self._asker.failure(question.trajectories, answer)
                continue
            for lesson in answer:
                yield from self._examined(question, lesson, kit)

    def _questions(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> list[_Question]:
        prompt = load_prompt(self.name, self.settings.prompts)
        given = by_trajectory(corrections)
        limit = self.settings.max_transcript_chars
        questions = []
        for picked in self.pick(trajectories, kit):
            told = [tuple(given.get(trajectory.id, ())) for trajectory in picked]
            texts = [transcript(t, c, limit=limit // len(picked)) for t, c in zip(picked, told, strict=True)]
            slots = {
                "request": _data(picked[0].task.prompt, limit),
                "other_request": _data(picked[-1].task.prompt, limit),
                "transcript": texts[0],
                "other": texts[-1],
                "max_lessons": str(self.settings.max_lessons),
            }
            messages = tuple(fill(prompt, slots))
            questions.append(_Question(picked, tuple(c for group in told for c in group), messages))
        return questions

    def _ask(self, question: _Question, model: Model) -> list[Lesson] | Refusal:
        n_steps = len(question.trajectories[0].steps)
        return self._asker.ask(
            model, question.messages, self._schema(), lambda text: self._parse(text, n_steps)
        )

    def _schema(self) -> Mapping[str, Any]:
        schema = _Answer.model_json_schema()
        schema["properties"]["lessons"]["maxItems"] = self.settings.max_lessons
        return schema

    def _parse(self, text: str, n_steps: int) -> list[Lesson]:
        """Read an answer; raises ValueError (json, pydantic or ours) that a model can act upon."""
        lessons = _Answer.model_validate(read_json(text)).lessons
        if len(lessons) > self.settings.max_lessons:
            raise ValueError(f"lessons: at most {self.settings.max_lessons}, not {len(lessons)}")
        for number, lesson in enumerate(lessons):
            if lesson.key_step >= max(n_steps, 1):
                raise ValueError(
                    f"lessons.{number}.key_step: there is no step {lesson.key_step}; steps go from 0 to "
                    f"{max(n_steps, 1) - 1}, -1 means none"
                )
        return lessons

    def _examined(self, question: _Question, lesson: Lesson, kit: Kit) -> Iterator[Finding]:
        """Accept a lesson whose quote stands in the record and whose claim holds."""
        span = examine(self.name, lesson.lesson, lesson.quote, question.trajectories, question.corrections)
        if isinstance(span, Rejection):
            yield span
            return
        confidence, extras = lesson.confidence, {}
        if lesson.call is not None and self.settings.replay:
            replayed = replay_claim(question.trajectories[0], lesson.key_step, lesson.call.to_call(), kit)
            yield Notice(distiller=self.name, counts={f"claims: {replayed.verdict}": 1})
            if replayed.verdict == "fails":
                yield refused(
                    self.name, question.trajectories, lesson.lesson, "claim-failed", replayed.detail
                )
                return
            if replayed.verdict == "holds":
                confidence, extras = (1.0 + confidence) / 2, {"replayed": True}
            else:
                yield Notice(distiller=self.name, text=f"replay cannot tell of a claim: {replayed.detail}")
        yield candidate(
            self.kind,
            " ".join(lesson.when_to_use.split()),
            lesson.lesson.strip(),
            trajectories=question.trajectories,
            scope=kit.settings.memory.scope,
            origin=self.name,
            confidence=confidence,
            step=lesson.key_step if lesson.key_step >= 0 else None,
            corrections=question.corrections,
            query=" ".join(lesson.query.split()),
            spans=[span],
            extras=extras,
        )


def examine(
    name: str,
    lesson: str,
    quote: str,
    trajectories: Sequence[Trajectory],
    corrections: Sequence[Correction] = (),
) -> Span | Rejection:
    """Return the span that a lesson quotes, or why the lesson is refused."""
    given = by_trajectory(corrections)
    words = [w for t in trajectories for w in words_of(t, given.get(t.id, ()))]
    found = find_quote(quote, words)
    if isinstance(found, str):
        return refused(name, trajectories, lesson, found, f"its quote is {shorten(quote, 120)!r}")
    if line := repeats_memory(lesson, trajectories):
        return refused(name, trajectories, lesson, "repeats-memory", f"recalled was {shorten(line, 160)!r}")
    return found


def refused(
    name: str, trajectories: Sequence[Trajectory], lesson: str, reason: RejectReason, detail: str
) -> Rejection:
    """Return the record of a lesson that was refused."""
    return Rejection(
        distiller=name,
        trajectories=tuple(trajectory.id for trajectory in trajectories),
        lesson=lesson,
        reason=reason,
        detail=detail,
    )


def _data(text: str, limit: int) -> str:
    return shorten(text, limit).replace("</", "< /")


def _pair_counts(name: str, questions: Sequence[_Question]) -> Iterator[Notice]:
    pairs = [q.trajectories for q in questions if len(q.trajectories) == 2]
    n_hard = sum(best.task.id == worst.task.id for best, worst in pairs)
    if pairs:
        yield Notice(distiller=name, counts={"hard pairs": n_hard, "soft pairs": len(pairs) - n_hard})


def build_success(settings: LessonSettings, kit: Kit) -> LessonDistiller:
    """Build the component `success`: what made the best attempt work."""
    return LessonDistiller("success", "insight", lambda runs, kit: best_successes(runs), settings)


def build_failure(settings: LessonSettings, kit: Kit) -> LessonDistiller:
    """Build the component `failure`: what would have prevented the worst attempt."""
    return LessonDistiller("failure", "pitfall", lambda runs, kit: worst_failures(runs), settings)


def build_contrast(settings: ContrastSettings, kit: Kit) -> LessonDistiller:
    """Build the component `contrast`: what the best attempt did and the worst did not."""

    def pick(runs: Sequence[Trajectory], kit: Kit) -> list[tuple[Trajectory, ...]]:
        pairs = hard_pairs(runs)
        if settings.pairing == "soft":
            pairs += soft_pairs(runs, kit.embedder(), settings.pair_above)
        return pairs

    return LessonDistiller("contrast", "contrast", pick, settings)
