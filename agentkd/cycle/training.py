"""From a workspace to a training job: which dataset, from which adapter, and the union with earlier rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from agentkd.cycle.parts import Parts
from agentkd.cycle.teach import is_remote, objective_modules, settings_with_folders, teacher_fields
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.schema import DatasetCard, Example, TrainJob, TrainPlan, content_id

__all__ = ["dataset_to_train", "newest_checkpoint", "plan_training", "train_job", "union"]

Split = Literal["train", "dev"]


def train_job(parts: Parts, dataset_id: str, output: str, init: str = "") -> TrainJob:
    """Return the job of a training; raises NotFoundError, ConfigError where it cannot go on from `init`."""
    folder = parts.root / "datasets" / parts.ledger.datasets.get(dataset_id).id
    if not (folder / "card.json").is_file():
        raise NotFoundError(
            f"dataset `{dataset_id}` is not in `{folder.parent}`", hint="run `agentkd compile`"
        )
    base_id = parts.student_files.base_id
    _check_base(parts, parts.ledger.datasets.get(dataset_id))
    if init:
        checkpoint = parts.checkpoint(init)
        if checkpoint.base_id != base_id:
            raise ConfigError(
                f"checkpoint `{init}` was trained on another base than `{parts.settings.roles.student}`",
                hint="train from the base, or set `[roles] student` to the base of the checkpoint",
            )
        if checkpoint.status == "tainted":
            raise ConfigError(
                f"checkpoint `{init}` was trained on a memory that was revoked since",
                hint="train from the base, or go on from an older checkpoint",
            )
    return TrainJob(
        dataset=str(folder),
        base=str(parts.student_files.path),
        base_id=base_id,
        output=output,
        init_adapter=str(parts.checkpoint_folder(init)) if init else "",
        settings=settings_with_folders(parts),
        plugins=objective_modules(parts),
        signals=str(parts.root / "signals"),
        **teacher_fields(parts),
    )


def _check_base(parts: Parts, card: DatasetCard) -> None:
    """Refuse a dataset whose token ids are those of another model."""
    files = parts.student_files
    if card.base not in ("", files.base_id, files.source):
        raise DataError(
            f"dataset `{card.id}` was rendered for the base `{card.base}`, and the student is "
            f"`{files.base_id}`: all its rows hold the token ids of another vocabulary or template",
            hint="run `agentkd compile` again, or set `[roles] student` to the base that it was compiled for",
            dataset=card.id,
        )


def newest_checkpoint(parts: Parts) -> str:
    """Return what serves, else the newest checkpoint that is neither rejected nor tainted.

    Raises NotFoundError where there is none.
    """
    serving = parts.ledger.checkpoints.serving()
    if serving is not None:
        return serving.name
    sound = [c.name for c in parts.ledger.checkpoints.list() if c.status not in ("rejected", "tainted")]
    if not sound:
        raise NotFoundError("there is no checkpoint to go on from", hint="run `agentkd train` first")
    return sound[-1]


def dataset_to_train(parts: Parts, dataset_id: str | None, replay: Sequence[str] = ()) -> str:
    """Return the dataset to train on: the newest by default, or its union with the replayed ones."""
    if dataset_id is None:
        cards = [card for card in parts.ledger.datasets.list() if not card.settings.get("replayed")]
        if not cards:
            raise NotFoundError("there is no dataset yet", hint="run `agentkd compile`")
        dataset_id = cards[-1].id
    replay = [one for one in dict.fromkeys(replay) if one != dataset_id]
    return union(parts, dataset_id, replay).id if replay else dataset_id


def plan_training(parts: Parts, dataset_id: str | None, init: str, replay: Sequence[str]) -> TrainPlan:
    """Return what a training would take, and start nothing (the union with replayed datasets is written)."""
    output = str(parts.root / "checkpoints" / "planned")
    job = train_job(parts, dataset_to_train(parts, dataset_id, replay), output, init)
    plan = parts.trainer().plan(job, parts.progress)
    if is_remote(parts.settings.train.teacher) and plan.signals_missing:
        plan = plan.model_copy(update={"usd": None})
    return plan


@dataclass(frozen=True)
class _Union:
    """Rows of a dataset and a share of the rows of earlier ones."""

    parts: Parts
    cards: Sequence[DatasetCard]
    share: float

    def rows(self) -> Iterator[tuple[Example, Split]]:
        """Yield every row once: the newest dataset's as they are, and earlier ones to train on.

        An earlier row is left out where a memory under it was revoked, or where its task or its group of
        near duplicates is kept back in the newest dataset.
        """
        revoked = {m.id for m in self.parts.ledger.memories.list() if m.status == "revoked"}
        seen: set[str] = set()
        kept_back: set[str] = set()
        for split in ("dev", "train"):
            for row in self._read(self.cards[0], split):
                seen.add(row.id)
                if split == "dev":
                    kept_back |= {f"task {row.task_id}", f"group {row.group or row.task_id}"}
                yield row, split
        for card in self.cards[1:]:
            for row in self._read(card, "train"):
                places = {f"task {row.task_id}", f"group {row.group or row.task_id}"}
                is_sound = not revoked & set(row.provenance.memories) and not kept_back & places
                if row.id not in seen and is_sound and self._is_drawn(row.id):
                    seen.add(row.id)
                    yield row, "train"

    def _is_drawn(self, row_id: str) -> bool:
        """Draw a share of the rows by their ids: the same rows each time."""
        return int(content_id("row", "replay", row_id)[-8:], 16) < self.share * 16**8

    def _read(self, card: DatasetCard, split: Split) -> Iterator[Example]:
        from agentkd.compiler import read_examples

        return read_examples(self.parts.root / "datasets" / card.id / f"{split}.jsonl")


def union(parts: Parts, dataset_id: str, replay: Sequence[str]) -> DatasetCard:
    """Write and register the union of a dataset with `[train] replay_share` of the rows of earlier ones.

    The union is a dataset of its own, so lineage and revocation reach what is trained on it. Raises
    DataError where an earlier dataset was rendered by another tokenizer or template.
    """
    from agentkd import hf
    from agentkd.compiler.write import Tally, read_outlines, write_dataset

    cards = [parts.ledger.datasets.get(name) for name in (dataset_id, *replay)]
    for card in cards[1:]:
        if (card.base, card.template_hash) != (cards[0].base, cards[0].template_hash):
            raise DataError(
                f"dataset `{card.id}` was rendered for another base or chat template than `{cards[0].id}`",
                hint="compile it again before it is replayed",
            )
    share = parts.settings.train.replay_share

    def finish(tally: Tally) -> DatasetCard:
        settings = cards[0].settings | {"replayed": list(replay), "replay_share": share}
        return cards[0].model_copy(
            update={
                "id": content_id(
                    "dat", sorted(tally.train), sorted(tally.dev), cards[0].template_hash, settings
                ),
                "n_train": len(tally.train),
                "n_dev": len(tally.dev),
                "n_label_tokens": tally.n_label_tokens,
                "n_tokens": tally.n_tokens,
                "n_pairs": tally.n_pairs,
                "kinds": dict(tally.kinds),
                "sources": tally.sources(),
                "settings": settings,
            }
        )

    root = parts.root / "datasets"
    made = _Union(parts, cards, share)
    card = write_dataset(root, made.rows(), finish, hf.load_tokenizer(parts.student_files.path))
    with parts.ledger.transaction():
        for split in ("train", "dev"):
            parts.ledger.datasets.add(card, read_outlines(root / card.id / f"{split}.jsonl"), split)
    return card
