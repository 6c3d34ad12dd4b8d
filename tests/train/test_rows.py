"""Rows are checked before a model is loaded, and errors say where to look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentkd.errors import DataError, TrainError
from agentkd.schema import Example, Rendered
from agentkd.train.rows import load_dataset, preflight

MakeExample = Callable[..., Example]
Write = Callable[..., Path]


def test_rows_end_with_their_last_label(write_dataset: Write, make_example: MakeExample) -> None:
    row = make_example(0)
    longer = Rendered(ids=(*row.student.ids, 77, 78), weights=(*row.student.weights, 0.0, 0.0))
    dataset = load_dataset(write_dataset([row.model_copy(update={"student": longer})]), 100)
    assert dataset.train[0].student.ids == row.student.ids
    assert len(dataset.train[0].student.labels) == 4


def test_the_weight_of_a_row_scales_its_labels(write_dataset: Write, make_example: MakeExample) -> None:
    dataset = load_dataset(write_dataset([make_example(0, weight=0.5), make_example(1, weight=0.0)]), 100)
    assert dataset.train[0].student.weights == (0.5,) * 4
    assert len(dataset.train) == 1


def test_a_row_without_label_tokens_is_refused(write_dataset: Write, make_example: MakeExample) -> None:
    row = make_example(3)
    bare = Rendered(ids=row.student.ids, weights=(0.0,) * len(row.student.ids))
    with pytest.raises(TrainError, match="row `ex-3` has no label tokens"):
        load_dataset(write_dataset([row.model_copy(update={"student": bare})]), 100)


def test_a_teacher_view_must_predict_the_same_tokens(write_dataset: Write, make_example: MakeExample) -> None:
    row, other = make_example(0, teacher=True), make_example(1, teacher=True)
    with pytest.raises(DataError, match=r"line 1 of .* does not predict the student's label tokens"):
        load_dataset(write_dataset([row.model_copy(update={"teacher": other.teacher})]), 100)


def test_a_malformed_line_is_named(write_dataset: Write, make_example: MakeExample) -> None:
    folder = write_dataset([make_example(0)])
    with (folder / "train.jsonl").open("a") as rows:
        rows.write('{"id": 1}\n')
    with pytest.raises(DataError, match="line 2 of") as error:
        load_dataset(folder, 100)
    assert error.value.context["line"] == 2


def test_a_row_that_is_too_long_is_refused(write_dataset: Write, make_example: MakeExample) -> None:
    with pytest.raises(DataError, match="more than `max_tokens_per_row` = 5"):
        load_dataset(write_dataset([make_example(0)]), 5)


def test_nothing_to_train_on_is_an_error(write_dataset: Write, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no rows"):
        load_dataset(write_dataset([]), 100)
    with pytest.raises(DataError, match=r"no card\.json"):
        load_dataset(tmp_path / "absent", 100)


def test_the_table_counts_rows_tokens_and_labels(write_dataset: Write, make_example: MakeExample) -> None:
    rows = [make_example(number, teacher=True) for number in range(3)]
    lines = preflight(load_dataset(write_dataset(rows, [make_example(9)]), 100), 7)
    assert "labels min / median / max" in lines[0]
    assert lines[1].split()[:2] == ["train", "3"]
    assert lines[1].split()[-1] == "12"
    assert lines[2].split()[:2] == ["dev", "1"]
    assert lines[3] == "3 rows with a teacher view; 7 optimiser steps"
