"""From the rows of a step to batches: which views are packed, and what every objective gets for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from agentkd.train.batch import OWN, REJECTED, SAMPLED, Batch, PackSpans, Weighted
from agentkd.train.packing import Pack
from agentkd.train.reference import References
from agentkd.train.rows import Row, View
from agentkd.train.signals import TeacherSignals
from agentkd.train.spans import completion_spans

__all__ = ["Feed", "Packer", "PolicySource", "learns_from"]


class Packer(Protocol):
    """Makes packs of views; `together` names those that must share a pack (see `make_packs`)."""

    def __call__(self, views: Sequence[View], *, together: Sequence[Sequence[int]] = ()) -> Iterable[Pack]:
        """Yield the packs."""


class PolicySource(Protocol):
    """Gives the completions that the student sampled for a step."""

    def rows_of(self, step: int) -> dict[int, Row]:
        """Return a row with the sampled completion for some of the step's places."""


def learns_from(weighted: Weighted, row: Row) -> bool:
    """Whether an objective learns anything from a row."""
    needs = weighted.objective.requires
    if "rejected" in needs:
        return row.rejected is not None
    if weighted.needs_teacher or "teacher-spans" in needs:
        return row.teacher is not None and bool(row.student.labels)
    return bool(row.student.labels)


@dataclass(frozen=True)
class _Entry:
    row: Row
    kind: int
    origin: int
    is_replaced: bool = False


@dataclass(frozen=True)
class Feed:
    """Makes the batches of a step."""

    objectives: Sequence[Weighted]
    """The losses."""
    pack: Packer
    """Makes packs of views."""
    device: torch.device
    """Where the tensors go."""
    signals: TeacherSignals | None = None
    """What the teacher says, where an objective asks for it."""
    references: Mapping[str, References] = field(default_factory=dict)
    """What the model said before the training, by the name of the objective that asks for it."""
    policy: PolicySource | None = None
    """What the student says itself, where an objective asks for it."""

    def batches(self, rows: Sequence[Row], step: int, places: Sequence[int] | None = None) -> list[Batch]:
        """Return the packs of a step's rows (of those at some places) with all that their losses need."""
        entries, pairs = self._entries(rows, step, range(len(rows)) if places is None else places)
        views = [entry.row.student for entry in entries]
        return [self._batch(pack, entries) for pack in self.pack(views, together=pairs)]

    def _entries(
        self, rows: Sequence[Row], step: int, places: Sequence[int]
    ) -> tuple[list[_Entry], list[list[int]]]:
        """Return what is packed, and which entries are pairs."""
        sampled = self.policy.rows_of(step) if self.policy else {}
        entries: list[_Entry] = []
        pairs: list[list[int]] = []
        for origin in places:
            row, start = rows[origin], len(entries)
            if row.student.labels and self._wants_own(row, origin in sampled):
                entries.append(_Entry(row, OWN, origin, is_replaced=origin in sampled))
            if row.rejected is not None and any("rejected" in w.objective.requires for w in self.objectives):
                entries.append(_Entry(Row(row.id, row.rejected, None), REJECTED, origin))
                pairs.append(list(range(start, len(entries))))
            if origin in sampled:
                entries.append(_Entry(sampled[origin], SAMPLED, origin))
        return entries, pairs

    def _wants_own(self, row: Row, is_sampled: bool) -> bool:
        return any(learns_from(w, row) for w in self.objectives if not (is_sampled and w.samples))

    def _batch(self, pack: Pack, entries: Sequence[_Entry]) -> Batch:
        numbers = [number for number, _ in pack.labels]
        rows = [entry.row for entry in entries]
        batch = Batch(
            pack,
            torch.tensor([entries[number].kind for number in numbers]),
            self.signals.of_pack(pack, rows, self.device) if self.signals else None,
            is_replaced=torch.tensor([entries[number].is_replaced for number in numbers]),
        )
        spans = {w.name: self._spans(w, pack, entries) for w in self.objectives if w.is_on_spans}
        return replace(
            batch,
            spans={name: found for name, found in spans.items() if found is not None},
            references=self._references(pack, entries),
        )

    def _spans(self, weighted: Weighted, pack: Pack, entries: Sequence[_Entry]) -> PackSpans | None:
        needs = weighted.objective.requires
        if "teacher-spans" in needs:
            rows = [e.row if e.kind == OWN else replace(e.row, teacher=None) for e in entries]
            return self.signals.spans_of_pack(pack, rows, self.device) if self.signals else None
        origins = [-1 - n if e.kind == SAMPLED else e.origin for n, e in enumerate(entries)]
        rejected = [entry.kind == REJECTED for entry in entries]
        spans = completion_spans(pack, origins, rejected, self.device)
        if spans is None or weighted.name not in self.references:
            return spans
        paired = {entry.origin for entry in entries if entry.kind == REJECTED}
        compared = {
            number: Row(entry.row.id, entry.row.student, None)
            for number, entry in enumerate(entries)
            if entry.kind != SAMPLED and entry.origin in paired
        }
        return spans.with_reference(-self.references[weighted.name].of_pack(pack, compared, self.device))

    def _references(self, pack: Pack, entries: Sequence[_Entry]) -> dict[str, torch.Tensor]:
        """Return the reference's loss at each label for token-level objectives that ask for it."""
        found = {}
        for weighted in self.objectives:
            if weighted.name in self.references and not weighted.is_on_spans:
                compared = {
                    number: entry.row
                    for number, entry in enumerate(entries)
                    if entry.kind == OWN and learns_from(weighted, entry.row)
                }
                losses = self.references[weighted.name].of_pack(pack, compared, self.device)
                found[weighted.name] = losses
        return found
