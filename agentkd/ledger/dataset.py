"""Datasets: their cards, and per row what it was made from. The rows' tokens lie in files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import sqlalchemy as sa

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import CHUNK, Database, insert_many, insert_once, known
from agentkd.schema import DatasetCard, Example, Provenance, Value

__all__ = ["DatasetRow", "Datasets"]

Split = Literal["train", "dev"]
Found = list[DatasetCard]  # inside the class, `list` is the method


class DatasetRow(Value):
    """One row of a dataset: which example, from which task, made from what."""

    dataset_id: str
    """The dataset."""
    example_id: str
    """The example."""
    position: int
    """Position within its split, from 0."""
    split: Split
    """Whether it is trained on or watched."""
    task_id: str
    """Task that it comes from."""
    kind: str
    """What the row teaches."""
    provenance: Provenance
    """Where it comes from."""


class Datasets:
    """What was compiled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, card: DatasetCard, examples: Iterable[Example], split: Split = "train") -> None:
        """Store the card and the rows of one split in one transaction; rows already there are kept.

        Raises DataError, with nothing stored, where a row names a source that the ledger does not hold.
        """
        stream = iter(examples)
        with self._database.write() as connection:
            row = {"id": card.id, "created_at": card.created_at, "body": dump(card)}
            insert_once(connection, t.datasets, row)
            position = 0
            while batch := list(islice(stream, CHUNK)):
                _add_rows(connection, card.id, batch, split, position)
                position += len(batch)

    def get(self, dataset_id: str) -> DatasetCard:
        """Return a dataset's card; raises NotFoundError."""
        query = sa.select(t.datasets.c.body).where(t.datasets.c.id == dataset_id)
        with self._database.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        if body is None:
            raise NotFoundError(f"there is no dataset `{dataset_id}`", hint="see `agentkd datasets list`")
        return load(DatasetCard, body)

    def rows(self, dataset_id: str, split: Split | None = None) -> Sequence[DatasetRow]:
        """Return the rows of a dataset in their order, the train split first."""
        c = t.dataset_rows.c
        where = [c.dataset_id == dataset_id, *([c.split == split] if split is not None else [])]
        query = sa.select(t.dataset_rows).where(*where).order_by(c.split.desc(), c.position)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return [load(DatasetRow, row["provenance"], **_columns(row)) for row in rows]

    def tasks_of(self, dataset_id: str, split: Split | None = None) -> set[str]:
        """Return the ids of the tasks that a dataset was made from."""
        c = t.dataset_rows.c
        where = [c.dataset_id == dataset_id, *([c.split == split] if split is not None else [])]
        with self._database.read() as connection:
            return set(connection.execute(sa.select(c.task_id).where(*where).distinct()).scalars())

    def list(self) -> Found:
        """Return the cards, oldest first."""
        query = sa.select(t.datasets.c.body).order_by(t.datasets.c.created_at, t.datasets.c.id)
        with self._database.read() as connection:
            return [load(DatasetCard, body) for body in connection.execute(query).scalars()]


def _columns(row: sa.RowMapping) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "provenance"}


def _add_rows(
    connection: sa.Connection, dataset_id: str, examples: Sequence[Example], split: Split, start: int
) -> None:
    rows = [
        {
            "dataset_id": dataset_id,
            "example_id": example.id,
            "position": position,
            "split": split,
            "task_id": example.task_id,
            "kind": example.kind,
            "provenance": dump({"provenance": example.provenance.model_dump(mode="json")}),
        }
        for position, example in enumerate(examples, start)
    ]
    insert_many(connection, t.dataset_rows, rows)
    for table, target, field in (
        (t.row_memories, t.memories, "memories"),
        (t.row_trajectories, t.trajectories, "trajectories"),
        (t.row_corrections, t.corrections, "corrections"),
    ):
        pairs = [(example.id, id_) for example in examples for id_ in getattr(example.provenance, field)]
        _refuse_unknown(connection, target, pairs)
        links = [{"dataset_id": dataset_id, "source": source, "target": id_} for source, id_ in pairs]
        insert_many(connection, table, links)


def _refuse_unknown(connection: sa.Connection, target: sa.Table, pairs: Sequence[tuple[str, str]]) -> None:
    there = known(connection, target.c.id, [id_ for _, id_ in pairs])
    for source, id_ in pairs:
        if id_ not in there:
            raise DataError(
                f"example `{source}` rests on `{id_}`, which is not among the {target.name} of the ledger",
                hint="compile from the ledger that holds its sources",
            )
