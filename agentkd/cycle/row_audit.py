"""Holds training rows against the ledger and against the suite's grader, so that spoilt rows are seen.

A row of the compiler says what a successful run or a correction says. One that does not was changed on
its way to the trainer. And where a suite can judge a row's answer, it judges it again: a false correction
comes in by the front door and is all that its row rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentkd.cycle.parts import Parts
from agentkd.errors import AgentkdError
from agentkd.schema import Correction, Example, Message, Step, Task, ToolCall, Trajectory

if TYPE_CHECKING:
    from agentkd.evaluate import RowAudit

__all__ = ["audit_rows"]

MOST_REGRADED = 200
"""Rows that the grader judges again: the first by id, so that a judge that costs money stays cheap."""

_SAYS_CALL = "call"


def audit_rows(parts: Parts, rows: Iterable[Example]) -> RowAudit:
    """Hold rows against the runs and corrections that they name, and single-turn ones against the grader.

    What a teacher said in its own words no run says: the grader alone judges it.
    """
    from agentkd.evaluate import RowAudit

    found = [row for row in rows if row.kind != "negative"]
    evidence = _Evidence.of(parts, found)
    grounded = [row for row in found if _is_grounded(row)]
    unfounded = [
        row.id for row in found if not evidence.reads_as_target(row)
        or (row in grounded and _said(row.target) not in evidence.claims(row))
    ]  # fmt: skip
    verdicts = dict(evidence.regraded(sorted(found, key=lambda row: row.id)))
    return RowAudit(
        n_rows=len(found),
        n_grounded=len(grounded),
        unfounded=tuple(unfounded),
        n_regraded=len(verdicts),
        refuted=tuple(id_ for id_, is_right in verdicts.items() if not is_right),
    )


def _is_grounded(row: Example) -> bool:
    origin = row.provenance
    return bool(origin.trajectories or origin.corrections) and not origin.is_retold


@dataclass(frozen=True)
class _Evidence:
    """Runs and corrections that rows name."""

    parts: Parts
    trajectories: Mapping[str, Trajectory]
    corrections: Mapping[str, Correction]
    tokenizer: Any

    @classmethod
    def of(cls, parts: Parts, rows: Iterable[Example]) -> _Evidence:
        """Read what the rows name from the ledger."""
        from agentkd import hf

        runs = dict.fromkeys(id_ for row in rows for id_ in row.provenance.trajectories)
        wanted = {id_ for row in rows for id_ in row.provenance.corrections}
        return cls(
            parts,
            {t.id: t for t in parts.trajectories(runs)},
            {c.id: c for c in parts.ledger.corrections.list() if c.id in wanted} if wanted else {},
            hf.load_tokenizer(parts.student_files.path),
        )

    def reads_as_target(self, row: Example) -> bool:
        """Whether the tokens that are trained on end in the text of the target."""
        from agentkd import hf

        labels = [token for token, weight in zip(row.student.ids, row.student.weights, strict=True) if weight]
        ends = hf.end_ids(self.tokenizer)
        while labels and labels[-1] in ends:
            labels.pop()
        said = self.tokenizer.decode(labels, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(said).endswith(hf.as_text(row.target))

    def claims(self, row: Example) -> set[tuple[str, Any]]:
        """Return all that the runs and corrections of a row say: calls and texts."""
        said: set[tuple[str, Any]] = set()
        for id_ in row.provenance.corrections:
            correction = self.corrections.get(id_)
            if correction is not None:
                said |= {_call(call) for call in correction.accepted}
                said.add(_text(correction.accepted_answer))
        for id_ in row.provenance.trajectories:
            run = self.trajectories.get(id_)
            if run is not None and run.success:
                said |= {_call(call) for step in run.steps for call in step.accepted_calls}
                said |= {_text(step.reply.content) for step in run.steps}
        return said

    def regraded(self, rows: Iterable[Example]) -> Iterator[tuple[str, bool]]:
        """Yield (row, whether the suite's grader judges its target right), for whole answers."""
        n = 0
        for row in rows:
            task = self._task(row)
            if n >= MOST_REGRADED or task is None or any(m.role == "assistant" for m in row.student_view):
                continue
            is_right = self._grade(task, row.target, row.provenance.is_retold)
            if is_right is not None:
                n += 1
                yield row.id, is_right

    def _task(self, row: Example) -> Task | None:
        runs = [self.trajectories[id_] for id_ in row.provenance.trajectories if id_ in self.trajectories]
        corrections = [self.corrections[id_] for id_ in row.provenance.corrections if id_ in self.corrections]
        if any(run.task.is_synthetic for run in runs):
            return None  # the suite does not know it; it was judged when it was written
        if any(len(c.accepted) > 1 for c in corrections):
            return None  # one of several calls is no whole answer
        if not corrections and any(len(s.accepted_calls) > 1 for run in runs for s in run.steps):
            return None
        return runs[0].task if runs else self._taught.get(row.task_id)

    @cached_property
    def _taught(self) -> Mapping[str, Task]:
        """Tasks of the cycle's suite that are learnt from, by id: rows may name no run."""
        name = self.parts.settings.cycle.suite
        if name not in self.parts.registry.names("suite"):
            return {}
        suite = self.parts.suite(name)
        tasks = [task for split in suite.splits() for task in suite.tasks(split)]
        return {task.id: task for task in tasks if not task.is_held_out}

    def _grade(self, task: Task, target: Message, is_retold: bool) -> bool | None:
        """Return whether the grader takes the target as the whole answer; None where it is only a part.

        A remote teacher's words hold its calls as text, which is read as the student's words will be.
        """
        from agentkd.models.grammar import parse_calls

        if task.suite not in self.parts.registry.names("suite"):
            return None
        suite = self.parts.suite(task.suite)
        try:
            world = suite.environment(task)
            try:
                calls = target.tool_calls or (parse_calls(target.content, world.tools) if is_retold else ())
                results = tuple(world.call(call) for call in calls)
            finally:
                world.close()
            if calls and not any(result.ends_task for result in results):
                return None
            reply = target.model_copy(update={"tool_calls": calls})
            step = Step(index=0, reply=reply, accepted_calls=calls, results=results)
            answer = "" if calls else target.content
            run = Trajectory(id="tra-audit", run_id="audit", task=task, steps=(step,), answer=answer)
            return suite.grade(run).success
        except AgentkdError:
            return None


def _said(target: Message) -> tuple[str, Any]:
    return _call(target.tool_calls[0]) if target.tool_calls else _text(target.content)


def _call(call: ToolCall) -> tuple[str, Any]:
    from agentkd.schema import canonical_json

    return _SAYS_CALL, canonical_json([call.name, call.arguments])


def _text(text: str) -> tuple[str, Any]:
    return "text", text.strip()
