"""The phase `synthesize`: an exam of the student, a teacher that writes what it lacks, and the checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from agentkd.cycle.asking import clean_reply
from agentkd.cycle.assess import Exam, assess
from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import StageResult
from agentkd.cycle.vetting import Vetted, vet
from agentkd.errors import BudgetError, ConfigError, ModelError
from agentkd.protocols import Synthesizer
from agentkd.schema import (
    SYNTHETIC_SPLIT,
    Budget,
    Memory,
    Synthetic,
    Trajectory,
    Unusable,
    content_id,
    origin_of,
)

__all__ = ["synthesize_stage"]

PHASE = "synthesize"
_MOST_FAILURES = 20  # unusable answers that a report quotes


@dataclass
class _Written:
    """What the teacher gave."""

    items: list[Synthetic] = field(default_factory=list)
    unusable: list[Unusable] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    """Questions by synthesizer, those included that the log answered."""
    stopped: str = ""


def synthesize_stage(
    parts: Parts,
    *,
    suite: str,
    synthesizers: Sequence[str] = (),
    n_items: int | None = None,
    is_dry: bool = False,
) -> StageResult:
    """Assess the student, let the teacher write, check every item and store what passed.

    Answers are on disk before they are used, and items are facts by their content: a killed phase goes on
    and pays for nothing twice, as one that a ceiling of the cycle stopped between two questions. A ceiling of
    `[synthesize]` or `[models]` ends the writing, and what is there is kept.

    Args:
        parts: The workspace.
        suite: Suite to assess on; empty takes the student's runs in the ledger.
        synthesizers: Components of kind `synthesizer`; those of the settings by default.
        n_items: Items to write; `[synthesize] max_items` by default.
        is_dry: Whether no teacher is asked: the usage is then what the questions would cost at most.
    """
    settings = parts.settings.synthesize
    names = tuple(synthesizers) or settings.synthesizers
    if not names:
        raise ConfigError(
            "no synthesizer is set", hint='set `[synthesize] synthesizers = ["tailored"]`', key="synthesize"
        )
    built = [cast(Synthesizer, parts.build("synthesizer", name)) for name in names]
    exam = assess(
        parts, suite=suite, split=settings.split, n=settings.n, seed=parts.settings.cycle.seed,
        is_for_teacher=True,
    )  # fmt: skip
    teacher = _teacher(parts, is_dry)
    written = _write(parts, built, teacher, exam, n_items or settings.max_items, is_dry)
    if is_dry:
        return _expected(exam, teacher, written, names)
    _refuse_silence(written)
    run_id = content_id("run", "synthesize", exam.report.id, names)
    vetted = vet(parts, written.items, {run.id: run for run in exam.runs}, run_id)
    n_new = sum(parts.ledger.teaching.add_item(trajectory) for trajectory in vetted.trajectories)
    return _result(exam, teacher, written, vetted, n_new)


def _teacher(parts: Parts, is_dry: bool) -> Any:
    from agentkd.models.remembered import Remembered

    file = parts.root / "synthetic" / "answers.jsonl"
    limit = parts.settings.synthesize.max_tokens
    return Remembered(
        parts.model("teacher"), file, max_tokens=limit, is_dry=is_dry, check=parts.ceiling.begin,
        clean=clean_reply(parts),
    )  # fmt: skip


def _write(
    parts: Parts, synthesizers: Sequence[Synthesizer], teacher: Any, exam: Exam, n_items: int, is_dry: bool
) -> _Written:
    written = _Written()
    memories, before = _lessons(parts, exam), _asked_before(parts, exam.report.id)
    kept = _written_before(parts, exam)
    shares = [
        n_items // len(synthesizers) + (i < n_items % len(synthesizers)) for i in range(len(synthesizers))
    ]
    with parts.progress.bar("synthesize", n_items, "items") as bar:
        for synthesizer, share in zip(synthesizers, shares, strict=True):
            name = synthesizer.name
            budget = Budget(
                items=share, seed=parts.settings.cycle.seed, spare=0 if is_dry else 1, skip=before[name],
                written=kept,
            )  # fmt: skip
            taken, answered = 0, teacher.n_answered
            try:
                for found in synthesizer.synthesize(exam.runs, teacher, exam.report, memories, budget):
                    if isinstance(found, Unusable):
                        written.unusable.append(found)
                    elif taken < share:
                        taken += 1
                        written.items.append(found)
                        bar.advance()
            except BudgetError as error:
                written.stopped = str(error)
                break
            finally:
                written.asked[name] += teacher.n_answered - answered
    return written


def _asked_before(parts: Parts, report_id: str) -> Counter[str]:
    """Return the questions that finished cycles asked about a report, by synthesizer.

    Where a student was not promoted the same one sits the same exam again. The teacher goes on then where it
    stopped, instead of writing what is there already.
    """
    asked: Counter[str] = Counter()
    for report in parts.ledger.cycles.list("done"):
        for phase in report.phases:
            if phase.name == PHASE and phase.output.get("report") == report_id:
                asked.update(phase.output.get("asked", {}))
    return asked


def _written_before(parts: Parts, exam: Exam) -> dict[str, int]:
    """Return the items of the suite that follow another report than this one, by the tool of their answer."""
    from agentkd.synthesize import accepted_of

    items = parts.ledger.trajectories.list(suite=exam.report.suite or None, split=SYNTHETIC_SPLIT)
    tools: Counter[str] = Counter()
    for item in items:
        origin = origin_of(item)
        calls, _ = accepted_of(item)
        if origin is not None and origin.report != exam.report.id and calls:
            tools[calls[0].name] += 1
    return dict(tools)


def _lessons(parts: Parts, exam: Exam) -> Mapping[str, Sequence[Memory]]:
    """Return the lessons that a teacher may read, by run: recalled for its request, and shared."""
    wrong = {mistake.trajectory_id for mistake in exam.report.mistakes}
    found: dict[str, Sequence[Memory]] = {}
    for run in exam.runs:
        if run.id in wrong:
            scope = parts.settings.memory.scope.of_suite(run.task.suite)
            hits = parts.memory.recall(run.task.prompt, scope=scope, checkpoint=exam.report.checkpoint)
            found[run.id] = [hit.memory for hit in hits if hit.memory.privacy == "shared"]
    return found


def _refuse_silence(written: _Written) -> None:
    """Raise ModelError where the teacher could not be reached at all."""
    faults = [each for each in written.unusable if each.is_model_fault]
    if faults and not written.items and len(faults) == len(written.unusable) and not written.stopped:
        raise ModelError(f"the teacher cannot be asked: {faults[0].error}", hint="check `[roles] teacher`")


def _usage(teacher: Any) -> dict[str, float]:
    spent = teacher.spent.model_dump(include={"prompt_tokens", "completion_tokens", "usd"}, exclude_none=True)
    return {**spent, "calls": teacher.n_asked}


def _expected(exam: Exam, teacher: Any, written: _Written, names: Sequence[str]) -> StageResult:
    return StageResult(
        f"student does {exam.report.success.value:.3f} of {exam.report.n} tasks; {', '.join(names)} "
        f"would ask `{teacher.name}` at most {teacher.n_asked} questions"
        + (f"; stopped: {written.stopped}" if written.stopped else "")
        + _unseen(exam),
        {
            "report": exam.report.id,
            "questions": teacher.n_asked,
            "known": len(written.items),
            "untrusted": exam.n_untrusted,
        },
        _usage(teacher),
    )


def _unseen(exam: Exam) -> str:
    """Say how many runs the teacher was not shown."""
    n = exam.n_untrusted
    return f"; {n} runs are no seeds: untrusted words came into them" if n else ""


def _result(exam: Exam, teacher: Any, written: _Written, vetted: Vetted, n_new: int) -> StageResult:
    by = Counter(item.synthesizer for item in written.items)
    kept = _kept(vetted.trajectories)
    passed = (f"{kept.get(name, 0)} of {n} items of {name}" for name, n in sorted(by.items()))
    wrote = f"{', '.join(passed)} passed, {n_new} new" if by else "nothing was written"
    refused = "".join(f"; refused {n}: {reason}" for reason, n in sorted(vetted.refused.items()))
    lost = f"; {len(written.unusable)} answers unusable" if written.unusable else ""
    stopped = f"; stopped: {written.stopped}" if written.stopped else ""
    return StageResult(
        f"student does {exam.report.success.value:.3f} of {exam.report.n} tasks; `{teacher.name}`: "
        f"{wrote}{refused}{lost}{stopped}{_unseen(exam)}",
        {
            "report": exam.report.id,
            "teacher": teacher.name,
            "items": sorted(t.id for t in vetted.trajectories),
            "new": n_new,
            "written": dict(by),
            "asked": dict(written.asked),
            "kept": kept,
            "refused": dict(vetted.refused),
            "untrusted": exam.n_untrusted,
            "unusable": len(written.unusable),
            "failures": [u.model_dump(mode="json") for u in written.unusable[:_MOST_FAILURES]],
            "stopped": written.stopped,
        },
        _usage(teacher),
    )


def _kept(trajectories: Sequence[Trajectory]) -> dict[str, int]:
    origins = [origin for t in trajectories if (origin := origin_of(t)) is not None]
    return dict(Counter(origin.synthesizer for origin in origins))
