"""The refiner `redistil`: a stronger teacher rewrites lessons that many runs support (needs a model)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from agentkd.memory.lesson import normalise
from agentkd.memory.neighbour import judged, situation_of
from agentkd.memory.question import Asking
from agentkd.memory.wording import wording_of
from agentkd.protocols import Kit
from agentkd.schema import Memory, MemoryEdit, Trajectory, Utility, Value, canonical_json, memory_id
from agentkd.trust import trust_of_run

__all__ = ["RedistilRefiner", "RedistilSettings", "build"]

_MOST_CHARS = 600  # of one call, result or answer
_MOST_BEFORE = 6  # messages of before the request, the newest


class RedistilSettings(Value):
    """`[refiner.redistil]`."""

    model: str = ""
    """Teacher: a role or a model string; empty for the role `teacher`, else `distiller`."""
    min_support: int = Field(default=5, ge=1)
    """Distinct runs that must support a lesson before it is worth a teacher's time."""
    below_confidence: float = Field(default=0.9, ge=0.0, le=1.0)
    """Lessons at least this sure, such as those of people, are left as they are."""
    max_runs: int = Field(default=4, ge=1)
    """Supporting runs that the teacher reads."""
    max_chars: int = Field(default=6000, ge=200)
    """Longest record of all these runs together."""
    max_questions: int = Field(default=20, ge=0)
    """Lessons in one run of the refiner, best supported first."""
    prompts: str = ""
    """Folder with own prompt files `redistil.md` and `repair.md`."""


class _Rewritten(BaseModel):
    model_config = ConfigDict(extra="forbid")

    when_to_use: str = Field(min_length=8, max_length=300)
    query: str = Field(min_length=1, max_length=300)
    lesson: str = Field(min_length=8, max_length=1000)
    quote: str = Field(min_length=1, max_length=600)
    confidence: float = Field(ge=0.0, le=1.0)


class RedistilRefiner:
    """Replace a well supported lesson of a weak origin by the teacher's wording; evidence is kept.

    The new version must rest on words of the supporting runs and keep the names of the old one. Its use
    is counted anew: another wording may help more or less. Exemplars are left as they are.
    """

    name = "redistil"

    def __init__(self, settings: RedistilSettings | None = None) -> None:
        self.settings = settings or RedistilSettings()
        self.failures: list[str] = []
        """What the last run could not use of the model's answers."""

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield a new version per rewritten lesson; raises ConfigError where no model plays the teacher."""
        self.failures = []
        weak = [memory for memory in judged(memories) if self._is_weak(memory)]
        weak.sort(key=lambda memory: (-memory.support, memory.id))
        if not weak:
            return
        teacher = self.settings.model or ("teacher" if kit.settings.roles.teacher else "distiller")
        asking = Asking(self.name, kit, self.settings.prompts, model=teacher)
        self.failures = asking.failures
        for memory in weak:
            if asking.n_asked >= self.settings.max_questions:
                return
            newer = self._rewritten(memory, asking, kit)
            if newer is not None:
                reason = f"reworded by {asking.model_name} from {memory.support} supporting runs"
                yield MemoryEdit(ids=(memory.id,), replacement=newer, reason=reason)

    def _is_weak(self, memory: Memory) -> bool:
        return (
            memory.kind != "case"
            and not memory.calls
            and memory.origin != self.name
            and memory.support >= self.settings.min_support
            and memory.confidence < self.settings.below_confidence
        )

    def _rewritten(self, memory: Memory, asking: Asking, kit: Kit) -> Memory | None:
        trust = kit.settings.trust  # a rewording is trusted as its memory is: only clean words reach it
        runs = [
            run
            for run in kit.trajectories(memory.evidence.trajectories)
            if not run.task.is_held_out and (not trust.gate or trust_of_run(run, trust).is_clean)
        ]
        records = [_record(run) for run in runs[: self.settings.max_runs]]
        if not records:
            return None
        limit = self.settings.max_chars // len(records)
        shown = "\n\n".join(record[:limit] for record in records)
        slots = {"when_to_use": situation_of(memory), "lesson": memory.content, "runs": shown}
        answer = asking.ask([memory.id], slots, _Rewritten, lambda new: _check(new, memory, shown))
        if answer is None:
            return None
        when, lesson = " ".join(answer.when_to_use.split()), answer.lesson.strip()
        new_id = memory_id(memory.kind, when, lesson, memory.scope)
        if new_id == memory.id or normalise(lesson) == normalise(memory.content):
            return None
        keys = {"situation": when, "query": " ".join(answer.query.split())}
        return memory.model_copy(
            update={
                "id": new_id,
                "when_to_use": when,
                "content": lesson,
                "keys": memory.keys.model_copy(update=keys),
                "confidence": answer.confidence,
                "origin": self.name,
                "utility": Utility(),
                "extras": {**memory.extras, "reworded_by": asking.model_name},
            }
        )


def _check(new: _Rewritten, old: Memory, shown: str) -> None:
    """Raise ValueError where a new wording lost something or does not rest on the runs."""
    if normalise(new.quote) not in normalise(shown.replace("</", "< /")):
        raise ValueError("quote: these words are not in the runs; copy them exactly")
    before, after = wording_of(old.content), wording_of(new.lesson)
    names = {name for sentence in before.sentences for name in sentence.names}
    lost = sorted(names - after.values)
    if lost:
        raise ValueError(f"lesson: it lost `{lost[0]}`; keep every name")
    values = {value for sentence in before.sentences for value in sentence.values}
    lost = sorted(value for value in values - after.values if value in shown.casefold())
    if lost:
        raise ValueError(f"lesson: it lost the value {lost[0]!r}, which the runs show; keep it")
    invented = sorted(v for v in after.values - before.values if v not in shown.casefold())
    if invented:
        raise ValueError(f"lesson: {invented[0]!r} stands neither in the lesson nor in the runs")
    if before.negations and not after.negations:
        raise ValueError("lesson: the prohibition was lost")


def _record(run: Trajectory) -> str:
    """Return a run as lines: request, calls, results, answer; never what was recalled for it."""
    said = [message for message in run.earlier if message.content][-_MOST_BEFORE:]
    lines = [f"Before the request, {message.role}: {_short(message.content)}" for message in said]
    lines.append(f"Request: {_short(run.task.prompt)}")
    for step in run.steps:
        for number, call in enumerate(step.accepted_calls):
            lines.append(f"Call: {_short(canonical_json([call.name, call.arguments]))}")
            if number < len(step.results):
                lines.append(f"Result: {_short(step.results[number].error or step.results[number].content)}")
    if run.answer:
        lines.append(f"Answer: {_short(run.answer)}")
    if run.outcome is not None:
        lines.append("Outcome: done" if run.outcome.success else "Outcome: not done")
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARS else f"{line[: _MOST_CHARS - 3]}..."


def build(settings: RedistilSettings, kit: Kit) -> RedistilRefiner:
    """Make the component `redistil`."""
    return RedistilRefiner(settings)
