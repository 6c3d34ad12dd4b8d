"""The synthesizers that stay with the seed's own task: `rationale` explains it, `paraphrase` rewords it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from pydantic import BaseModel, ConfigDict, Field

from agentkd.protocols import Kit, Model
from agentkd.schema import Budget, Memory, StudentReport, Synthetic, Trajectory, Unusable
from agentkd.synthesize.ask import AskSettings, Question, ask_all, read_as
from agentkd.synthesize.check import kept_values
from agentkd.synthesize.prompt import fill, load_prompt
from agentkd.synthesize.target import accepted_of, drawn, request_text, said_text, tool_texts, wrong_ones
from agentkd.synthesize.write import WrittenCall

__all__ = [
    "ParaphraseSettings",
    "ParaphraseSynthesizer",
    "RationaleSettings",
    "RationaleSynthesizer",
    "build_paraphrase",
    "build_rationale",
]


class RationaleSettings(AskSettings):
    """`[synthesizer.rationale]`."""


class ParaphraseSettings(AskSettings):
    """`[synthesizer.paraphrase]`."""

    per_question: int = Field(default=2, ge=1, le=10)
    """Rewordings that one question asks for."""


class _Rationale(BaseModel):
    model_config = ConfigDict(extra="forbid")

    steps: list[str] = Field(min_length=1, max_length=8)
    calls: list[WrittenCall] = Field(default_factory=list)
    answer: str = ""


class _Paraphrases(BaseModel):
    model_config = ConfigDict(extra="forbid")

    requests: list[str] = Field(min_length=1)


class RationaleSynthesizer:
    """Let the teacher explain what the student got wrong, step by step, down to the right answer.

    The explanation is a task of its own beside the calls, as in Distilling step-by-step (arXiv 2305.02301);
    which ones are written follows the student's exam (Learn-to-Reason, arXiv 2310.13332).
    """

    name = "rationale"

    def __init__(self, settings: RationaleSettings | None = None) -> None:
        self.settings = settings or RationaleSettings()

    def synthesize(
        self,
        seeds: Sequence[Trajectory],
        teacher: Model,
        student_report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterator[Synthetic | Unusable]:
        """Yield one explanation per mistake, until the budget or the mistakes are used up."""
        prompt = load_prompt(self.name, self.settings.prompts)
        questions: list[Question] = []
        wrong = islice(wrong_ones(seeds, student_report), budget.skip, budget.skip + budget.questions())
        for seed, mistake, series in wrong:
            if series > 1:
                break
            tools, _ = tool_texts(seed.task.tools, (mistake.tool, mistake.said_tool))
            said = mistake.said or "nothing"
            slots = {
                "tools": tools, "request": request_text(seed), "said": said, "accepted": mistake.accepted
            }  # fmt: skip
            questions.append(Question(seed, fill(prompt, slots)))

        def read(question: Question, text: str) -> list[Synthetic]:
            return [self._read(question.seed, read_as(_Rationale, text), teacher.name, student_report.id)]

        yield from ask_all(
            self.name, self.settings, teacher, questions, _Rationale.model_json_schema(), read, budget
        )

    def _read(self, seed: Trajectory, said: _Rationale, teacher: str, report: str) -> Synthetic:
        calls = tuple(call.call() for call in said.calls)
        right, answer = said_text(calls, said.answer.strip()), said.answer.strip()
        if not right:
            raise ValueError("the explanation ends without the right answer")
        steps = [f"{number}. {' '.join(step.split())}" for number, step in enumerate(said.steps, 1)]
        explain = load_prompt("explain", self.settings.prompts)
        return Synthetic(
            synthesizer=self.name,
            teacher=teacher,
            seed=seed.id,
            prompt=fill(explain, {"request": seed.task.prompt})[-1].content,
            system=seed.task.system,
            answer="\n".join([*steps, right]),
            proof=calls,
            proof_answer="" if calls else answer,
            is_of_seed=True,
            report=report,
        )


class ParaphraseSynthesizer:
    """Let the teacher reword randomly drawn requests whose answer is known: the plainest augmentation."""

    name = "paraphrase"

    def __init__(self, settings: ParaphraseSettings | None = None) -> None:
        self.settings = settings or ParaphraseSettings()

    def synthesize(
        self,
        seeds: Sequence[Trajectory],
        teacher: Model,
        student_report: StudentReport,
        memories: Mapping[str, Sequence[Memory]],
        budget: Budget,
    ) -> Iterator[Synthetic | Unusable]:
        """Yield rewordings until the budget is used up; the answer stays the accepted one."""
        n, prompt = self.settings.per_question, load_prompt(self.name, self.settings.prompts)
        questions = [
            Question(seed, fill(prompt, {"request": seed.task.prompt, "n": str(n), "series": str(series)}))
            for seed, series in islice(
                drawn(seeds, budget.seed), budget.skip, budget.skip + budget.questions(n)
            )
        ]

        def read(question: Question, text: str) -> list[Synthetic]:
            said = read_as(_Paraphrases, text).requests[:n]
            return [self._read(question.seed, request.strip(), teacher.name) for request in said]

        yield from ask_all(
            self.name, self.settings, teacher, questions, _Paraphrases.model_json_schema(), read, budget,
            per_question=n,
        )  # fmt: skip

    def _read(self, seed: Trajectory, request: str, teacher: str) -> Synthetic:
        accepted, answer = accepted_of(seed)
        calls = tuple(accepted)
        lost = kept_values(calls, seed.task.prompt, request)
        if lost or not request:
            raise ValueError(f"a rewording lost the value `{lost}`" if lost else "a rewording is empty")
        return Synthetic(
            synthesizer=self.name,
            teacher=teacher,
            seed=seed.id,
            prompt=request,
            system=seed.task.system,
            tools=seed.task.tools,
            calls=calls,
            answer="" if calls else answer,
            proof=calls,
            proof_answer="" if calls else answer,
        )


def build_rationale(settings: RationaleSettings, kit: Kit) -> RationaleSynthesizer:
    """Build the component `rationale`."""
    return RationaleSynthesizer(settings)


def build_paraphrase(settings: ParaphraseSettings, kit: Kit) -> ParaphraseSynthesizer:
    """Build the component `paraphrase`."""
    return ParaphraseSynthesizer(settings)
