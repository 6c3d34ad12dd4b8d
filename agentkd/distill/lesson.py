"""Distillers with a language model: `success`, `failure` and `contrast` (after ReMe, arXiv 2512.10696).

The answer is structured output. What does not fit the schema goes back to the model once with the
error; what does not fit then is a `DistillFailure`: recorded, never accepted, never silently dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentkd.distill.candidate import candidate
from agentkd.distill.case import by_trajectory
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.source import shorten, transcript
from agentkd.errors import BudgetError, ModelError
from agentkd.protocols import Kit, Model
from agentkd.schema import Correction, Memory, Message, Trajectory, Value

__all__ = [
    "DistillFailure",
    "LessonDistiller",
    "LessonSettings",
    "build_contrast",
    "build_failure",
    "build_success",
]


class LessonSettings(Value):
    """`[distiller.success]`, `[distiller.failure]` and `[distiller.contrast]`."""

    prompts: str = ""
    """Folder with own prompt files (`success.md`, `failure.md`, `contrast.md`, `repair.md`)."""
    max_lessons: int = Field(default=3, ge=1)
    """Lessons that one answer may hold."""
    max_transcript_chars: int = Field(default=6000, ge=200)
    """Longest record that the model reads."""
    max_new_tokens: int = Field(default=700, ge=1)
    """Longest answer in tokens."""
    workers: int = Field(default=8, ge=1)
    """Calls in flight."""


class DistillFailure(Value):
    """An answer that could not be understood, even after a repair."""

    distiller: str
    """Name of the distiller."""
    trajectories: tuple[str, ...]
    """What the model was asked about."""
    error: str
    """Why the last answer was refused."""
    answer: str = ""
    """Beginning of the last answer; empty where the model could not be reached."""


class _Lesson(BaseModel):
    model_config = ConfigDict(extra="forbid")

    when_to_use: str = Field(min_length=8, max_length=300)
    query: str = Field(min_length=1, max_length=300)
    lesson: str = Field(min_length=8, max_length=600)
    key_step: int = Field(ge=-1)
    confidence: float = Field(ge=0.0, le=1.0)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lessons: list[_Lesson]


@dataclass(frozen=True)
class _Question:
    trajectories: tuple[Trajectory, ...]
    corrections: tuple[Correction, ...]
    messages: tuple[Message, ...]


Pick = Callable[[Sequence[Trajectory]], list[tuple[Trajectory, ...]]]


class LessonDistiller:
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

    def distill(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Memory]:
        """Yield candidates; failures are said through `kit.progress`."""
        for found in self.attempt(trajectories, corrections, kit):
            if isinstance(found, Memory):
                yield found
            else:
                kit.progress.say(f"{self.name}: {', '.join(found.trajectories)}: {found.error}")

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Memory | DistillFailure]:
        """Yield candidates and failures in the order of the questions.

        Raises ConfigError where no model plays `distiller`, BudgetError where a ceiling is met, and
        ModelError where no question at all could be asked.
        """
        questions = self._questions(trajectories, corrections)
        if not questions:
            return
        model = kit.model("distiller")
        unreachable: list[ModelError] = []
        with (
            kit.progress.bar(f"distill {self.name}", len(questions), "run") as bar,
            ThreadPoolExecutor(self.settings.workers) as pool,
        ):
            jobs = [pool.submit(self._ask, question, model) for question in questions]
            try:
                for question, job in zip(questions, jobs, strict=True):
                    try:
                        yield from self._memories(question, job.result(), kit)
                    except BudgetError:
                        raise
                    except ModelError as error:
                        unreachable.append(error)
                        yield self._failure(question, f"the model failed: {error}")
                    bar.advance()
            finally:
                for job in jobs:
                    job.cancel()
        if len(unreachable) == len(questions):
            raise unreachable[-1]

    def _questions(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction]
    ) -> list[_Question]:
        prompt = load_prompt(self.name, self.settings.prompts)
        given = by_trajectory(corrections)
        limit = self.settings.max_transcript_chars
        questions = []
        for picked in self.pick(trajectories):
            told = [tuple(given.get(trajectory.id, ())) for trajectory in picked]
            texts = [transcript(t, c, limit=limit // len(picked)) for t, c in zip(picked, told, strict=True)]
            slots = {
                "request": shorten(picked[0].task.prompt, limit).replace("</", "< /"),
                "transcript": texts[0],
                "other": texts[-1],
                "max_lessons": str(self.settings.max_lessons),
            }
            messages = tuple(fill(prompt, slots))
            questions.append(_Question(picked, tuple(c for group in told for c in group), messages))
        return questions

    def _ask(self, question: _Question, model: Model) -> list[_Lesson] | DistillFailure:
        messages = list(question.messages)
        for is_repair in (False, True):
            reply = model.reply(
                messages,
                schema=self._schema(),
                max_new_tokens=self.settings.max_new_tokens,
                temperature=0.0,
                purpose=f"distill:{self.name}",
            )
            try:
                return self._parse(reply.text, len(question.trajectories[0].steps))
            except ValueError as error:
                reason = _explain(error)
            if is_repair:
                break
            complaint = fill(load_prompt("repair", self.settings.prompts), {"error": reason})
            messages = [*messages, Message(role="assistant", content=reply.text, origin="model"), *complaint]
        return self._failure(question, reason, reply.text)

    def _schema(self) -> Mapping[str, Any]:
        schema = _Answer.model_json_schema()
        schema["properties"]["lessons"]["maxItems"] = self.settings.max_lessons
        return schema

    def _parse(self, text: str, n_steps: int) -> list[_Lesson]:
        """Read an answer; raises ValueError (json, pydantic or ours) that a model can act upon."""
        lessons = _Answer.model_validate(json.loads(_without_fence(text))).lessons
        if len(lessons) > self.settings.max_lessons:
            raise ValueError(f"lessons: at most {self.settings.max_lessons}, not {len(lessons)}")
        for number, lesson in enumerate(lessons):
            if lesson.key_step >= max(n_steps, 1):
                raise ValueError(
                    f"lessons.{number}.key_step: there is no step {lesson.key_step}; steps go from 0 to "
                    f"{max(n_steps, 1) - 1}, -1 means none"
                )
        return lessons

    def _failure(self, question: _Question, error: str, answer: str = "") -> DistillFailure:
        ids = tuple(trajectory.id for trajectory in question.trajectories)
        return DistillFailure(distiller=self.name, trajectories=ids, error=error, answer=shorten(answer, 400))

    def _memories(
        self, question: _Question, lessons: list[_Lesson] | DistillFailure, kit: Kit
    ) -> Iterator[Memory | DistillFailure]:
        if isinstance(lessons, DistillFailure):
            yield lessons
            return
        for lesson in lessons:
            yield candidate(
                self.kind,
                " ".join(lesson.when_to_use.split()),
                lesson.lesson.strip(),
                trajectories=question.trajectories,
                scope=kit.settings.memory.scope,
                origin=self.name,
                confidence=lesson.confidence,
                step=lesson.key_step if lesson.key_step >= 0 else None,
                corrections=question.corrections,
                query=" ".join(lesson.query.split()),
            )


def _without_fence(text: str) -> str:
    """Return what stands in a Markdown code fence where the whole answer is one."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.partition("\n")[2][:-3]
    return text


def _explain(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        return "; ".join(parts)
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return str(error)


def best_successes(trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, ...]]:
    """Return the best successful attempt of each task."""
    return [(best,) for best, _ in _extremes(trajectories) if best is not None]


def worst_failures(trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, ...]]:
    """Return the worst failed attempt of each task; an ungraded run counts where it broke off."""
    return [(worst,) for _, worst in _extremes(trajectories) if worst is not None]


def best_against_worst(trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, ...]]:
    """Return the best success and the worst failure of each task that has both."""
    return [(best, worst) for best, worst in _extremes(trajectories) if best and worst]


def _extremes(trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory | None, Trajectory | None]]:
    tasks: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in trajectories:
        tasks.setdefault((trajectory.task.suite, trajectory.task.id), []).append(trajectory)
    pairs = []
    for _, attempts in sorted(tasks.items()):
        ordered = sorted(attempts, key=lambda t: (-_reward(t), len(t.steps), t.attempt))
        done = [t for t in ordered if t.success]
        failed = [t for t in ordered if not t.success and (t.outcome is not None or t.failure is not None)]
        pairs.append((done[0] if done else None, failed[-1] if failed else None))
    return pairs


def _reward(trajectory: Trajectory) -> float:
    return trajectory.outcome.reward if trajectory.outcome is not None else 0.0


def build_success(settings: LessonSettings, kit: Kit) -> LessonDistiller:
    """Build the component `success`: what made the best attempt work."""
    return LessonDistiller("success", "insight", best_successes, settings)


def build_failure(settings: LessonSettings, kit: Kit) -> LessonDistiller:
    """Build the component `failure`: what would have prevented the worst attempt."""
    return LessonDistiller("failure", "pitfall", worst_failures, settings)


def build_contrast(settings: LessonSettings, kit: Kit) -> LessonDistiller:
    """Build the component `contrast`: what the best attempt did and the worst did not."""
    return LessonDistiller("contrast", "contrast", best_against_worst, settings)
