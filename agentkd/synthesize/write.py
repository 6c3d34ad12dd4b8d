"""The synthesizers that write new requests: `tailored` after the report, `random` without it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentkd.protocols import Kit, Model
from agentkd.schema import Budget, Memory, StudentReport, Synthetic, ToolCall, Trajectory, Unusable
from agentkd.synthesize.ask import AskSettings, Question, ask_all, read_as
from agentkd.synthesize.check import fault_of
from agentkd.synthesize.prompt import fill, load_prompt
from agentkd.synthesize.target import (
    accepted_of,
    drawn,
    lessons_text,
    request_text,
    said_text,
    student_text,
    tool_texts,
    wrong_ones,
)

__all__ = [
    "RandomSynthesizer",
    "TailoredSynthesizer",
    "WriteSettings",
    "build_random",
    "build_tailored",
]


class WriteSettings(AskSettings):
    """`[synthesizer.tailored]` and `[synthesizer.random]`."""

    per_question: int = Field(default=2, ge=1, le=10)
    """Items that one question asks for."""


class WrittenCall(BaseModel):
    """One call of an answer."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)

    def call(self) -> ToolCall:
        """Return it as a value."""
        return ToolCall(name=self.name, arguments=self.arguments)


class WrittenItem(BaseModel):
    """One exercise of an answer."""

    model_config = ConfigDict(extra="forbid")

    request: str = Field(min_length=1)
    calls: list[WrittenCall] = Field(default_factory=list)
    answer: str = ""


class Written(BaseModel):
    """An answer."""

    model_config = ConfigDict(extra="forbid")

    items: list[WrittenItem] = Field(min_length=1)


class _Writes:
    """Asks for exercises, and reads them."""

    name: str

    def __init__(self, settings: WriteSettings | None = None) -> None:
        self.settings = settings or WriteSettings()

    def synthesize(
        self,
        seeds: Sequence[Trajectory],
        teacher: Model,
        student_report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterator[Synthetic | Unusable]:
        """Yield items until the budget is used up or the teacher has nothing more to say."""
        n = budget.questions(self.settings.per_question)
        stream = self._questions(seeds, student_report, memories, budget)
        questions = islice(stream, budget.skip, budget.skip + n)

        def read(question: Question, text: str) -> list[Synthetic]:
            return self._read(question, text, teacher.name, student_report)

        yield from ask_all(
            self.name, self.settings, teacher, list(questions), Written.model_json_schema(), read, budget,
            per_question=self.settings.per_question,
        )  # fmt: skip

    def _questions(
        self,
        seeds: Sequence[Trajectory],
        report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterable[Question]:
        raise NotImplementedError

    def _report_id(self, report: StudentReport) -> str:
        raise NotImplementedError

    def _read(self, question: Question, text: str, teacher: str, report: StudentReport) -> list[Synthetic]:
        items = [
            Synthetic(
                synthesizer=self.name,
                teacher=teacher,
                seed=question.seed.id,
                prompt=written.request.strip(),
                system=question.seed.task.system,
                tools=question.seed.task.tools,
                calls=tuple(call.call() for call in written.calls),
                answer=written.answer.strip(),
                report=self._report_id(report),
                memories=tuple(memory.id for memory in question.memories),
            )
            for written in read_as(Written, text).items[: self.settings.per_question]
        ]
        faults = [
            f"items.{number}: {fault}" for number, item in enumerate(items) if (fault := fault_of(item))
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return items

    def _asked(self, slots: Mapping[str, str]) -> list[Any]:
        return fill(load_prompt(self.name, self.settings.prompts), slots)


class TailoredSynthesizer(_Writes):
    """Let the teacher write requests like those that the student gets wrong, near what it confuses.

    Source: the loops of Learn-to-Reason (arXiv 2310.13332), PGKD (arXiv 2411.05045) and CoMD (arXiv
    2311.08213): exam, exercises for the mistakes, training, exam.
    """

    name = "tailored"

    def _questions(
        self,
        seeds: Sequence[Trajectory],
        report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterator[Question]:
        for seed, mistake, series in wrong_ones(seeds, report, budget.written):
            shown = memories.get(seed.id, ())
            tools, others = tool_texts(seed.task.tools, (mistake.tool, mistake.said_tool))
            slots = {
                "student": student_text(report),
                "tools": tools,
                "others": others,
                "request": request_text(seed),
                "said": mistake.said or "nothing",
                "accepted": mistake.accepted,
                "lessons": lessons_text(shown),
                "n": str(self.settings.per_question),
                "series": str(series),
            }
            yield Question(seed, self._asked(slots), shown)

    def _report_id(self, report: StudentReport) -> str:
        return report.id


class RandomSynthesizer(_Writes):
    """Let the teacher write as many requests like randomly drawn ones: the control of `tailored`."""

    name = "random"

    def _questions(
        self,
        seeds: Sequence[Trajectory],
        report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterator[Question]:
        for seed, series in drawn(seeds, budget.seed):
            calls, answer = accepted_of(seed)
            tools, others = tool_texts(seed.task.tools, [call.name for call in calls])
            slots = {
                "tools": tools,
                "others": others,
                "request": request_text(seed),
                "accepted": said_text(calls, answer),
                "n": str(self.settings.per_question),
                "series": str(series),
            }
            yield Question(seed, self._asked(slots))

    def _report_id(self, report: StudentReport) -> str:
        return ""


def build_tailored(settings: WriteSettings, kit: Kit) -> TailoredSynthesizer:
    """Build the component `tailored`."""
    return TailoredSynthesizer(settings)


def build_random(settings: WriteSettings, kit: Kit) -> RandomSynthesizer:
    """Build the component `random`."""
    return RandomSynthesizer(settings)
