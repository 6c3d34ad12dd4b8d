"""Compiles trajectories, corrections and memories into a dataset of training rows.

Trajectories are read twice, task by task: once to find near duplicates and what is kept back, once to write.
Between the two only ids, hashes and one vector per distinct request are held, and no row outlives its chunk.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agentkd import hf
from agentkd.compiler.eligibility import EASY, Holdings
from agentkd.compiler.inputs import CompileInputs
from agentkd.compiler.plan import Plan, make_plan, turns_of_task
from agentkd.compiler.render import RowRefused, RowRenderer, emphasised
from agentkd.compiler.select import admit_rows, memory_extras
from agentkd.compiler.source import by_task
from agentkd.compiler.split import task_key
from agentkd.compiler.template import TemplateFault
from agentkd.compiler.turn import Turn
from agentkd.compiler.views import build_views
from agentkd.compiler.weighed import places_in, with_weighed
from agentkd.compiler.write import Tally, read_outlines, with_clean_id, write_dataset
from agentkd.config import CompileSettings
from agentkd.errors import DataError, ModelError
from agentkd.plugins import Hooks
from agentkd.protocols import Bar, Progress, Selector, SilentProgress
from agentkd.schema import DatasetCard, Example, Hit, Message, Provenance, Rendered, content_id, origin_of

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["compile_dataset"]

_CHUNK = 256  # rows that selectors see at one time


def compile_dataset(
    inputs: CompileInputs,
    *,
    settings: CompileSettings,
    need_teacher: bool,
    hooks: Hooks,
    out_root: Path,
    progress: Progress | None = None,
    selectors: Sequence[Selector] = (),
    ledger: Ledger | None = None,
    max_tokens: int = 2048,
    need_rejected: bool = False,
) -> DatasetCard:
    """Write `<out_root>/<id>/{train,dev}.jsonl`, the same rows as messages, and cards; return the card.

    The same inputs and settings give the same id, whatever the trajectories' ids, times and order; a
    whole dataset of that id is left as it is.

    Args:
        inputs: What to compile.
        settings: How.
        need_teacher: Whether an objective or selector asks for a teacher view.
        hooks: `admit_example` may veto a row.
        out_root: Folder of the datasets.
        progress: Shows the tasks as their rows are rendered.
        selectors: Components of kind `selector`; their weights are multiplied, 0 drops a row.
        ledger: Gets the card and the rows' provenance, where given.
        max_tokens: Longer rows are left out, never cut.
        need_rejected: Whether an objective learns from what failed runs said.

    Raises:
        DataError: a trajectory belongs to a held-out split, or the chat template cannot be trusted; nothing
            is written then.
        PluginError: a selector or hook failed.
        StoreError: the disk refused; nothing is left behind.
    """
    holdings = Holdings.of(inputs.memories, settings, inputs.places)
    plan = make_plan(inputs, settings, holdings, need_rejected=need_rejected)
    renderer = RowRenderer(hf.load_tokenizer(inputs.tokenizer), max_tokens, settings.role_weights)
    compilation = _Compilation(
        inputs, settings, need_teacher, need_rejected, renderer, plan, holdings, Counter(), {}
    )
    names = [selector.name for selector in selectors]
    with (progress or SilentProgress()).bar("compile", len(plan.groups), "tasks") as bar:
        admitted = _admitted(compilation.all_rows(bar), selectors, hooks, compilation.dropped)
        rows = ((row, compilation.split_of(row)) for row in admitted)
        made: list[DatasetCard] = []

        def finish(tally: Tally) -> DatasetCard:
            made.append(with_clean_id(_card(tally, compilation, names), ledger))
            return made[-1]

        card = write_dataset(out_root, rows, finish, renderer.tokenizer)
    if ledger is not None:
        with ledger.transaction():
            for split in ("train", "dev"):
                outlines = read_outlines(out_root / card.id / f"{split}.jsonl")
                ledger.datasets.add(card, outlines, split)
    judged = made[0].model_dump(include={"dropped", "eligibility", "ineligible"})
    return card.model_copy(update=judged)  # the same rows may come of other memories than before


@dataclass(frozen=True)
class _Compilation:
    """How rows are made from turns, one at a time, and what was left out."""

    inputs: CompileInputs
    settings: CompileSettings
    need_teacher: bool
    need_rejected: bool
    renderer: RowRenderer
    plan: Plan
    holdings: Holdings
    dropped: Counter[str]
    refusals: dict[str, str]
    """For each reason to leave rows out, the first such row and the cure."""

    def split_of(self, example: Example) -> Literal["train", "dev"]:
        """Return where a row goes: whole groups are kept back."""
        return "dev" if example.group in self.plan.dev else "train"

    def all_rows(self, bar: Bar) -> Iterator[Example]:
        """Yield the rows of one task after another."""
        for traces in by_task(self.inputs.traces, self.plan.keys):
            turns = turns_of_task(
                traces, self.inputs, self.holdings, self.dropped, need_rejected=self.need_rejected
            )
            if turns and task_key(turns[0].trajectory.task) in self.plan.left_out:
                self.dropped["written by a teacher, beyond `[synthesize] max_share`"] += len(turns)
                turns = []
            if self.settings.role_weights.history or self.settings.role_weights.observation:
                turns = with_weighed(turns, traces, self.inputs.trust)
            for turn in turns:
                yield from self.rows(turn)
            bar.advance()

    def rows(self, turn: Turn) -> Iterator[Example]:
        """Yield the row of a turn, and for a share of the turns a second one that shows the memories."""
        group = self.plan.groups[task_key(turn.trajectory.task)]
        if self._is_easy(turn, group):
            self.dropped[EASY] += 1
            return
        hits = self._hits(turn, group)
        kept = [hit for hit in hits if hit.memory.id in self.holdings.kept]
        hits = kept if turn.is_negative else hits
        is_taught = self.need_teacher and not turn.is_negative
        views = build_views(turn, hits, kept, self.inputs, self.settings, need_teacher=is_taught)
        where = f"task `{turn.trajectory.task.id}`, step {turn.step}"
        try:
            row = self._row(turn, group, views.student, views.teacher, hits if views.teacher else kept)
            yield row
            if views.student_with_memory and _share_of(row.id) < self.settings.memory_share:
                yield self._row(turn, group, views.student_with_memory, views.teacher, hits)
        except RowRefused as refusal:
            self._refuse(refusal, str(refusal), where)
        except TemplateFault as fault:
            raise DataError(f"{fault.message}, met in {where}", hint=fault.hint, row=where) from fault
        except ModelError as error:
            raise ModelError(f"{error.message}, met in {where}", hint=error.hint, row=where) from error

    def _refuse(self, refusal: RowRefused, reason: str, where: str) -> None:
        self.dropped[reason] += 1
        self.refusals.setdefault(reason, f"{where}: {reason}; {refusal.cure}")

    def _is_easy(self, turn: Turn, group: str) -> bool:
        """Whether the base does such tasks unaided; what a person put right is taught all the same."""
        n, wins = self.plan.bare.get(group, (0, 0))
        is_needed = turn.is_correction or turn.is_negative
        return n > 0 and not is_needed and (wins + 0.5) / (n + 1) > self.settings.easy_above

    def _hits(self, turn: Turn, group: str) -> list[Hit]:
        is_wanted = not turn.is_negative and (self.need_teacher or self.settings.memory_share)
        if not (is_wanted or self.holdings.kept):
            return []
        blocked = frozenset() if group in self.plan.dev else self.plan.kept_back
        return self.holdings.shown(self.inputs.recall(turn.trajectory), blocked)

    def _row(
        self,
        turn: Turn,
        group: str,
        student_view: tuple[Message, ...],
        teacher_view: tuple[Message, ...],
        shown: Sequence[Hit],
    ) -> Example:
        student, teacher, rejected = self._rendered(turn, student_view, teacher_view)
        resting = self.holdings.under(turn)
        memories = {*resting, *turn.recalled, *turn.misled_by, *(hit.memory.id for hit in shown)}
        origin = origin_of(turn.trajectory)
        example = Example(
            id="",
            kind=_kind(turn, resting),
            task_id=turn.trajectory.task.id,
            group=group,
            student_view=student_view,
            teacher_view=teacher_view,
            target=turn.target,
            rejected=turn.rejected,
            student=student,
            student_rejected=rejected,
            teacher=teacher,
            provenance=Provenance(
                trajectories=turn.trajectories,
                memories=tuple(sorted(memories)),
                corrections=turn.corrections,
                teacher=turn.teacher or self.inputs.teacher,
                base=self.inputs.base_id,
                synthesizer=origin.synthesizer if origin else "",
                report=origin.report if origin else "",
            ),
            extras=memory_extras(turn, resting, self.holdings, self.plan.skill.get(group)),
        )
        return example.model_copy(update={"id": _example_id(example)})

    def _rejected(self, turn: Turn, view: tuple[Message, ...]) -> Rendered | None:
        """Return what must not be said as tokens; without it a row with a target still teaches that."""
        if turn.rejected is None:
            return None
        like = None if turn.is_negative else turn.target
        try:
            return self.renderer.render(view, turn.rejected, like=like)
        except RowRefused as refusal:
            if turn.is_negative:
                raise
            where = f"task `{turn.trajectory.task.id}`, step {turn.step}"
            self._refuse(refusal, f"rejected answer: {refusal}", where)
            return None

    def _rendered(
        self, turn: Turn, student_view: tuple[Message, ...], teacher_view: tuple[Message, ...]
    ) -> tuple[Rendered, Rendered | None, Rendered | None]:
        """Return both views and what must not be said as tokens.

        The labels of both views are the same tokens with the same weights.
        """
        rejected = self._rejected(turn, student_view)
        if turn.is_negative:
            return self.renderer.prompt(student_view), None, rejected
        alone = turn if rejected is None else replace(turn, weighed=frozenset())  # a pair compares answers
        weighed = places_in(student_view, alone)
        student = self.renderer.render(student_view, turn.target, weighed=weighed)
        if turn.is_correction and rejected is not None and self.settings.correction_weight != 1.0:
            student, rejected = emphasised(student, rejected, self.settings.correction_weight)
        if not teacher_view:
            return student, None, rejected
        weighed = places_in(teacher_view, alone)
        teacher = self.renderer.render(teacher_view, turn.target, name="teacher view", weighed=weighed)
        if _labels(teacher)[0] != _labels(student)[0]:  # a template that renders later turns otherwise
            student = self.renderer.render(student_view, turn.target)
            teacher = self.renderer.render(teacher_view, turn.target, name="teacher view")
        return student, _weighted_like(teacher, student), rejected


def _labels(rendered: Rendered) -> tuple[list[int], list[float]]:
    """Return the weighted tokens and their weights."""
    pairs = [(t, w) for t, w in zip(rendered.ids, rendered.weights, strict=True) if w]
    return [token for token, _ in pairs], [weight for _, weight in pairs]


def _weighted_like(teacher: Rendered, student: Rendered) -> Rendered:
    weights = iter(_labels(student)[1])
    return Rendered(ids=teacher.ids, weights=tuple(next(weights) if w else 0.0 for w in teacher.weights))


def _admitted(
    rows: Iterator[Example], selectors: Sequence[Selector], hooks: Hooks, dropped: Counter[str]
) -> Iterator[Example]:
    """Yield admitted rows; a weight is part of a row's id."""
    while chunk := list(islice(rows, _CHUNK)):
        for row in admit_rows(chunk, selectors, hooks, dropped):
            yield row if row.weight == 1.0 else row.model_copy(update={"id": _example_id(row)})


def _card(tally: Tally, compilation: _Compilation, selectors: Iterable[str]) -> DatasetCard:
    template = hf.template_hash(compilation.renderer.tokenizer)
    settings = {
        **compilation.settings.model_dump(mode="json"),
        "selectors": list(selectors),
        "need_teacher": compilation.need_teacher,
        "need_rejected": compilation.need_rejected,
        "max_tokens": compilation.renderer.max_tokens,
    }
    base, teacher = compilation.inputs.base_id, compilation.inputs.teacher if tally.n_taught else ""
    foreign = [teacher] if teacher not in ("", "base") else []
    return DatasetCard(
        id=content_id("dat", sorted(tally.train), sorted(tally.dev), template, base, settings, *foreign),
        **tally.counts(),
        dropped={reason: n for reason, n in sorted(compilation.dropped.items()) if n},
        eligibility=compilation.holdings.counts(),
        ineligible=compilation.holdings.faults,
        refusals=tuple(compilation.refusals[reason] for reason in sorted(compilation.refusals)),
        base=base,
        teacher=teacher,
        template_hash=template,
        settings=settings,
        created_at=compilation.inputs.read_at,
    )


def _kind(
    turn: Turn, resting: Sequence[str]
) -> Literal["correction", "internalise", "negative", "synthetic", "trajectory"]:
    if turn.trajectory.task.is_synthetic:
        return "synthetic"
    if turn.is_negative:
        return "negative"
    if turn.is_correction:
        return "correction"
    return "internalise" if resting or turn.recalled else "trajectory"


def _example_id(example: Example) -> str:
    """Return the content id of a row.

    Ids of trajectories and corrections name occasions, not content: two runs of the same work must
    compile to the same dataset, so they are left out. Ids of memories are hashes of content and stay.
    """
    content = example.model_dump_json(exclude={"id", "provenance", "extras"})
    made = "\0".join((content, *example.provenance.memories, example.provenance.base))
    return f"ex-{hashlib.sha256(made.encode()).hexdigest()[:20]}"


def _share_of(example_id: str) -> float:
    """Return a number in [0, 1) that depends on a row alone."""
    return int(content_id("share", example_id)[-8:], 16) / 16**8
