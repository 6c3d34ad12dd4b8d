"""Compiles trajectories, corrections and memories into a dataset of training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentkd import hf
from agentkd.compiler.inputs import CompileInputs
from agentkd.compiler.render import RowRefused, render_view
from agentkd.compiler.select import Holdings, admit_rows, memory_extras, refuse_held_out
from agentkd.compiler.split import TaskKey, choose_dev, group_tasks, task_key
from agentkd.compiler.turn import Turn, merge_turns, turns_of
from agentkd.compiler.views import build_views
from agentkd.compiler.write import Tally, read_examples, write_dataset
from agentkd.config import CompileSettings
from agentkd.plugins import Hooks
from agentkd.protocols import Progress, Selector, SilentProgress
from agentkd.schema import DatasetCard, Example, Hit, Message, Provenance, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["compile_dataset"]

_CHUNK = 1024  # rows that selectors see at one time


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
) -> DatasetCard:
    """Write `<out_root>/<id>/{train,dev}.jsonl` and `card.json`, and return the card.

    The same inputs and settings give the same id, whatever the trajectories' ids, times and order; a
    whole dataset of that id is left as it is.

    Args:
        inputs: What to compile.
        settings: How.
        need_teacher: Whether an objective asks for teacher signals, so that rows get a teacher view.
        hooks: `admit_example` may veto a row.
        out_root: Folder of the datasets.
        progress: Shows the rows as they are rendered.
        selectors: Components of kind `selector`; their weights are multiplied, 0 drops a row.
        ledger: Gets the card and the rows' provenance, where given.
        max_tokens: Longer rows are left out, never cut.

    Raises:
        DataError: a trajectory belongs to a held-out split; nothing is written then.
        PluginError: a selector or hook failed.
        StoreError: the disk refused; nothing is left behind.
    """
    refuse_held_out(inputs.trajectories)
    compilation = _plan(inputs, settings, need_teacher, max_tokens)
    dropped = compilation.dropped
    with (progress or SilentProgress()).bar("compile", len(compilation.turns), "turns") as bar:

        def made() -> Iterator[Example]:
            for turn in compilation.turns:
                yield from compilation.rows(turn)
                bar.advance()

        def finish(tally: Tally) -> DatasetCard:
            return _card(tally, compilation, [selector.name for selector in selectors])

        admitted = _admitted(made(), selectors, hooks, dropped)
        card = write_dataset(out_root, ((row, compilation.split_of(row)) for row in admitted), finish)
    if ledger is not None:
        with ledger.transaction():
            for split in ("train", "dev"):
                rows = read_examples(out_root / card.id / f"{split}.jsonl")
                ledger.datasets.add(card, rows, split)
    return card


@dataclass(frozen=True)
class _Compilation:
    """The plan of a dataset: turns, groups and what may be shown; rows are made one at a time."""

    inputs: CompileInputs
    settings: CompileSettings
    need_teacher: bool
    max_tokens: int
    tokenizer: Any
    turns: list[Turn]
    groups: dict[TaskKey, str]
    dev: frozenset[str]
    kept_back: frozenset[str]
    """Trajectories of the dev groups: train rows show no memory that rests on them."""
    holdings: Holdings
    dropped: Counter[str]

    def split_of(self, example: Example) -> Literal["train", "dev"]:
        """Return where a row goes: whole groups are kept back."""
        return "dev" if example.group in self.dev else "train"

    def rows(self, turn: Turn) -> Iterator[Example]:
        """Yield the row of a turn, and for a share of the turns a second one that shows the memories."""
        group = self.groups[task_key(turn.trajectory.task)]
        hits = self._hits(turn, group)
        views = build_views(turn, hits, self.inputs, self.settings, need_teacher=self.need_teacher)
        try:
            row = self._row(turn, group, views.student, views.teacher, hits if views.teacher else ())
            yield row
            if views.student_with_memory and _share_of(row.id) < self.settings.memory_share:
                yield self._row(turn, group, views.student_with_memory, views.teacher, hits)
        except RowRefused as refusal:
            self.dropped[str(refusal)] += 1

    def _hits(self, turn: Turn, group: str) -> list[Hit]:
        if not self.need_teacher and not self.settings.memory_share:
            return []
        blocked = frozenset() if group in self.dev else self.kept_back
        return self.holdings.shown(self.inputs.recall(turn.trajectory), blocked)

    def _row(
        self,
        turn: Turn,
        group: str,
        student_view: tuple[Message, ...],
        teacher_view: tuple[Message, ...],
        shown: Sequence[Hit],
    ) -> Example:
        student = render_view(self.tokenizer, student_view, turn.target, max_tokens=self.max_tokens)
        teacher = None
        if teacher_view:
            teacher = render_view(
                self.tokenizer, teacher_view, turn.target, max_tokens=self.max_tokens, name="teacher view"
            )
        resting = self.holdings.under(turn)
        memories = {*resting, *turn.recalled, *(hit.memory.id for hit in shown)}
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
            teacher=teacher,
            provenance=Provenance(
                trajectories=turn.trajectories,
                memories=tuple(sorted(memories)),
                corrections=turn.corrections,
                teacher=turn.teacher or self.inputs.teacher,
                base=self.inputs.base_id,
            ),
            extras=memory_extras(turn, resting, self.holdings),
        )
        return example.model_copy(update={"id": _example_id(example)})


def _plan(
    inputs: CompileInputs, settings: CompileSettings, need_teacher: bool, max_tokens: int
) -> _Compilation:
    dropped: Counter[str] = Counter()
    holdings = Holdings.of(inputs.memories, settings.min_support)
    turns = merge_turns(_turns(inputs, holdings, dropped), dropped)
    tasks = [turn.trajectory.task for turn in turns]
    groups = group_tasks(tasks, inputs.embed, settings.near_duplicate) if tasks else {}
    dev = choose_dev(Counter(groups[task_key(task)] for task in tasks), settings.dev_share)
    kept_back = (t.id for t in inputs.trajectories if groups.get(task_key(t.task)) in dev)
    return _Compilation(
        inputs=inputs,
        settings=settings,
        need_teacher=need_teacher,
        max_tokens=max_tokens,
        tokenizer=hf.load_tokenizer(inputs.tokenizer),
        turns=turns,
        groups=groups,
        dev=dev,
        kept_back=frozenset(kept_back),
        holdings=holdings,
        dropped=dropped,
    )


def _turns(inputs: CompileInputs, holdings: Holdings, dropped: Counter[str]) -> Iterator[Turn]:
    for trajectory in inputs.trajectories:
        if trajectory.id in holdings.forbidden:
            dropped[holdings.forbidden[trajectory.id]] += 1
            continue
        tools = inputs.tools_of(trajectory.task)
        yield from turns_of(trajectory, inputs.corrections.get(trajectory.id, ()), tools, dropped)


def _admitted(
    rows: Iterator[Example], selectors: Sequence[Selector], hooks: Hooks, dropped: Counter[str]
) -> Iterator[Example]:
    """Yield admitted rows; a weight is part of a row's id."""
    while chunk := list(islice(rows, _CHUNK)):
        for row in admit_rows(chunk, selectors, hooks, dropped):
            yield row if row.weight == 1.0 else row.model_copy(update={"id": _example_id(row)})


def _card(tally: Tally, compilation: _Compilation, selectors: Iterable[str]) -> DatasetCard:
    template = hf.template_hash(compilation.tokenizer)
    settings = {
        **compilation.settings.model_dump(mode="json"),
        "selectors": list(selectors),
        "need_teacher": compilation.need_teacher,
        "max_tokens": compilation.max_tokens,
    }
    base = compilation.inputs.base_id
    return DatasetCard(
        id=content_id("dat", sorted(tally.train), sorted(tally.dev), template, base, settings),
        n_train=len(tally.train),
        n_dev=len(tally.dev),
        n_label_tokens=tally.n_label_tokens,
        n_tokens=tally.n_tokens,
        dropped={reason: n for reason, n in sorted(compilation.dropped.items()) if n},
        base=base,
        template_hash=template,
        settings=settings,
    )


def _kind(turn: Turn, resting: Sequence[str]) -> Literal["correction", "internalise", "trajectory"]:
    if turn.is_correction:
        return "correction"
    return "internalise" if resting or turn.recalled else "trajectory"


def _example_id(example: Example) -> str:
    """Return the content id of a row.

    Ids of trajectories and corrections name occasions, not content: two runs of the same work must
    compile to the same dataset, so they are left out. Ids of memories are hashes of content and stay.
    """
    content = example.model_dump(mode="json", exclude={"id", "provenance", "extras"})
    return content_id("ex", content, example.provenance.memories, example.provenance.base)


def _share_of(example_id: str) -> float:
    """Return a number in [0, 1) that depends on a row alone."""
    return int(content_id("share", example_id)[-8:], 16) / 16**8
