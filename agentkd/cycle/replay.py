"""Replay: a dataset together with the rows of earlier ones, so that what was learnt is not unlearnt.

Ground truth, a row whose target a person or a grader gave, is never pushed out by what the student said
itself: where both teach the same turn of a task, only the ground truth is trained on. A model that is fed
its own answers alone, round after round, narrows and drifts (I. Shumailov et al., Nature 631, 2024).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agentkd.cycle.parts import Parts
from agentkd.errors import DataError
from agentkd.schema import DatasetCard, Example, content_id

__all__ = ["ancestor_datasets", "is_ground_truth", "union"]

_OF_A_RETELLING = ("made_from", "taught_by")  # of the first dataset alone: a union has rows of others
Split = Literal["train", "dev"]
Turn = tuple[str, str]


def is_ground_truth(row: Example) -> bool:
    """Whether a person's or a grader's accepted answer gave the target, and no model's words replaced it."""
    origin = row.provenance
    return row.kind == "correction" and not origin.is_retold and origin.teacher not in ("tool", "judge")


def ancestor_datasets(parts: Parts, name: str) -> Iterator[str]:
    """Yield the datasets of a checkpoint and of those that it went on from, newest first, each once."""
    seen: set[str] = set()
    while name and name not in seen:
        seen.add(name)
        checkpoint = parts.checkpoint(name)
        if checkpoint.dataset_id not in seen:
            seen.add(checkpoint.dataset_id)
            yield checkpoint.dataset_id
        name = checkpoint.parent


def union(
    parts: Parts,
    dataset_id: str,
    replay: Sequence[str],
    *,
    share: float | None = None,
    known: Collection[str] = (),
) -> DatasetCard:
    """Write and register the union of a dataset with a share of the rows of earlier ones.

    The union is a dataset of its own, so lineage and revocation reach what is trained on it.

    Args:
        parts: The workspace.
        dataset_id: Dataset whose rows are taken as they are.
        replay: Earlier datasets.
        share: Share of the replayed rows, drawn by row id; None takes `[train] replay_share`.
        known: Ids of rows that the adapter has seen: they count as replayed wherever they stand.

    Raises DataError where an earlier dataset was rendered by another tokenizer or template.
    """
    from agentkd import hf
    from agentkd.compiler.write import Tally, read_outlines, with_clean_id, write_dataset

    cards = [parts.ledger.datasets.get(name) for name in (dataset_id, *replay)]
    for card in cards[1:]:
        if (card.base, card.template_hash) != (cards[0].base, cards[0].template_hash):
            raise DataError(
                f"dataset `{card.id}` was rendered for another base or chat template than `{cards[0].id}`",
                hint="compile it again before it is replayed",
            )
    share = parts.settings.train.replay_share if share is None else share

    def finish(tally: Tally) -> DatasetCard:
        own = {key: value for key, value in cards[0].settings.items() if key not in _OF_A_RETELLING}
        settings = own | {"replayed": list(replay), "replay_share": share}
        made = cards[0].model_copy(
            update={
                "id": content_id(
                    "dat", sorted(tally.train), sorted(tally.dev), cards[0].template_hash, settings
                ),
                **tally.counts(),
                "settings": settings,
            }
        )
        return with_clean_id(made, parts.ledger)

    root = parts.root / "datasets"
    made = _Union(parts, cards, share, frozenset(known))
    card = write_dataset(root, made.rows(), finish, hf.load_tokenizer(parts.student_files.path))
    with parts.ledger.transaction():
        for split in ("train", "dev"):
            parts.ledger.datasets.add(card, read_outlines(root / card.id / f"{split}.jsonl"), split)
    return card


@dataclass(frozen=True)
class _Union:
    """Rows of a dataset and a share of the rows of earlier ones."""

    parts: Parts
    cards: Sequence[DatasetCard]
    share: float
    known: frozenset[str] = frozenset()
    _truth: set[Turn] = field(default_factory=set)
    _displaced: set[Turn] = field(default_factory=set)

    def rows(self) -> Iterator[tuple[Example, Split]]:
        """Yield every row once: the newest dataset's, and earlier ones to train on.

        A row is left out where it is tainted by a revocation and where ground truth teaches the same turn. An
        earlier row is left out where its task or its group of near duplicates is kept back in the newest
        dataset.
        """
        self._find_truth()
        seen: set[str] = set()
        kept_back: set[str] = set()
        for split in ("dev", "train"):
            for row in self._read(self.cards[0], split):
                seen.add(row.id)
                if split == "dev":
                    kept_back |= {f"task {row.task_id}", f"group {row.group or row.task_id}"}
                elif self._is_displaced(row) or not (row.id not in self.known or self._is_drawn(row)):
                    continue
                yield row, split
        for card in self.cards[1:]:
            for row in self._read(card, "train"):
                places = {f"task {row.task_id}", f"group {row.group or row.task_id}"}
                is_wanted = self._is_drawn(row) and not kept_back & places and not self._is_displaced(row)
                if row.id not in seen and is_wanted:
                    seen.add(row.id)
                    yield row, "train"

    def _find_truth(self) -> None:
        """Find the turns with an accepted answer, and those of them for which there are own words too."""
        own: set[Turn] = set()
        for card in self.cards:
            for row in self._read(card, "train"):
                if is_ground_truth(row):
                    self._truth.add(_turn(row))
                elif row.kind != "negative":
                    own.add(_turn(row))
        self._displaced.update(self._truth & own)

    def _is_displaced(self, row: Example) -> bool:
        """Whether a row holds the student's own words for a turn whose accepted answer is known."""
        return row.kind != "negative" and not is_ground_truth(row) and _turn(row) in self._truth

    def _is_drawn(self, row: Example) -> bool:
        """Draw a share of the rows by their ids, the same each time; truth stands for what it displaces."""
        if is_ground_truth(row) and _turn(row) in self._displaced:
            return True
        return int(content_id("row", "replay", row.id)[-8:], 16) < self.share * 16**8

    def _read(self, card: DatasetCard, split: Split) -> Iterator[Example]:
        from agentkd.compiler import read_examples

        tainted = self.parts.ledger.revocations.rows(card.id)
        rows = read_examples(self.parts.root / "datasets" / card.id / f"{split}.jsonl")
        return (row for row in rows if row.id not in tainted)


def _turn(row: Example) -> Turn:
    """Return what a row is about: its task and the conversation before the target."""
    return row.task_id, content_id("trn", [(m.role, m.content) for m in row.student_view])
