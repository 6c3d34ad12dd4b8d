"""Rows to train on: read from a dataset folder and checked before anything heavy is loaded."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from agentkd.errors import DataError, TrainError
from agentkd.schema import DatasetCard, Example, Rendered

__all__ = ["Dataset", "Row", "View", "check_vocabulary", "load_dataset", "preflight"]


@dataclass(frozen=True, slots=True)
class View:
    """One sequence with the positions that are predicted; cut after the last of them."""

    ids: tuple[int, ...]
    """Token ids, `[time]`."""
    labels: tuple[int, ...]
    """Ascending positions in `ids` whose token is predicted, `[label]`."""
    weights: tuple[float, ...]
    """Loss weight of each label, `[label]`."""

    @property
    def n_tokens(self) -> int:
        """Tokens that the row counts for in steps and reports."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Row:
    """A training row: what the student sees and, where there is one, what its teacher sees."""

    id: str
    """Id of the example."""
    student: View
    """Sequence of the student."""
    teacher: View | None
    """The same labels after the teacher's prompt."""
    rejected: View | None = None
    """The student's prompt with the completion that must not be said; weighted as the row is."""

    @property
    def n_tokens(self) -> int:
        """Tokens that the row counts for in the plan: both completions of a pair."""
        return self.student.n_tokens + (self.rejected.n_tokens if self.rejected else 0)


@dataclass(frozen=True)
class Dataset:
    """A dataset folder in memory."""

    card: DatasetCard
    """Its card."""
    train: tuple[Row, ...]
    """Rows to train on."""
    dev: tuple[Row, ...]
    """Rows on which the loss is watched; may be empty."""


def load_dataset(folder: str | Path, max_tokens: int) -> Dataset:
    """Read `card.json`, `train.jsonl` and (where there is one) `dev.jsonl`.

    Raises DataError with `path` and `line` for a malformed row, TrainError where there is nothing to learn.
    """
    folder = Path(folder)
    try:
        card = DatasetCard.model_validate_json((folder / "card.json").read_bytes())
    except FileNotFoundError:
        raise DataError(f"`{folder}` is no dataset: it has no card.json", path=str(folder)) from None
    except ValidationError as error:
        raise DataError(f"`{folder / 'card.json'}` is no dataset card: {error}", path=str(folder)) from error
    train = tuple(_read_rows(folder / "train.jsonl", max_tokens))
    if not train:
        raise TrainError(
            f"dataset `{card.id}` has no rows to train on",
            hint=card.refusals[0] if card.refusals else "compile more memories first",
        )
    dev_file = folder / "dev.jsonl"
    return Dataset(card, train, tuple(_read_rows(dev_file, max_tokens)) if dev_file.exists() else ())


def _read_rows(file: Path, max_tokens: int) -> Iterator[Row]:
    if not file.exists():
        raise DataError(f"`{file}` does not exist", path=str(file))
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                example = Example.model_validate_json(line)
                row = _row(example) if example.weight else None
            except (ValidationError, ValueError) as error:
                raise DataError(
                    f"line {number} of `{file}` is no training row: {error}",
                    hint="compile the dataset again",
                    path=str(file),
                    line=number,
                ) from error
            if row is not None:
                _check_length(row, max_tokens, file, number)
                yield row


def _row(example: Example) -> Row:
    student = _view(example.student, example.weight)
    rejected = _view(example.student_rejected, example.weight) if example.student_rejected else None
    if rejected is not None and not rejected.labels:
        raise ValueError(f"row `{example.id}`: its rejected completion has no label tokens")
    if not student.labels and rejected is None:
        raise TrainError(
            f"row `{example.id}` has no label tokens: nothing in it would be learnt",
            hint="its loss weights are all zero; compile the dataset again",
            row=example.id,
        )
    teacher = _view(example.teacher, example.weight) if example.teacher else None
    if teacher is not None and _label_ids(teacher) != _label_ids(student):
        raise ValueError(f"row `{example.id}`: the teacher view does not predict the student's label tokens")
    return Row(example.id, student, teacher, rejected)


def _view(rendered: Rendered, row_weight: float) -> View:
    if len(rendered.ids) != len(rendered.weights):
        raise ValueError(f"{len(rendered.ids)} ids but {len(rendered.weights)} weights")
    if any(weight < 0 for weight in rendered.weights) or row_weight < 0:
        raise ValueError("a loss weight is negative")
    labels = tuple(t for t, weight in enumerate(rendered.weights) if weight)
    if labels and labels[0] == 0:
        raise ValueError("the first token has a loss weight, but nothing comes before it")
    weights = tuple(rendered.weights[t] * row_weight for t in labels)
    return View(rendered.ids[: labels[-1] + 1] if labels else (), labels, weights)


def _label_ids(view: View) -> list[int]:
    return [view.ids[t] for t in view.labels]


def check_vocabulary(rows: Sequence[Row], n_vocabulary: int, *, has_foreign_teacher: bool = False) -> None:
    """Refuse rows with a token that the model has no embedding for; raises DataError that names the row.

    A foreign teacher's views are in the tokens of a vocabulary of its own, which may be larger.
    """
    for row in rows:
        for view in (row.student, row.rejected, None if has_foreign_teacher else row.teacher):
            strange = [token for token in view.ids if not 0 <= token < n_vocabulary] if view else []
            if strange:
                raise DataError(
                    f"row `{row.id}` has the token {strange[0]}, and the model's vocabulary ends at "
                    f"{n_vocabulary - 1}",
                    hint="it was rendered with another tokenizer: compile the dataset again for this student",
                    row=row.id,
                )


def _check_length(row: Row, max_tokens: int, file: Path, number: int) -> None:
    longest = max(view.n_tokens for view in (row.student, row.teacher, row.rejected) if view is not None)
    if longest > max_tokens:
        raise DataError(
            f"row `{row.id}` has {longest} tokens, more than `max_tokens_per_row` = {max_tokens}",
            hint="raise `[train] max_tokens_per_row` or compile again",
            path=str(file),
            line=number,
        )


def preflight(dataset: Dataset, n_steps: int) -> list[str]:
    """Return the lines of the table that is shown before training starts."""
    spread = "min / median / max"
    lines = [f"{'rows':<8}{'n':>7}  {'tokens ' + spread:>26}  {'labels ' + spread:>26}  {'labels':>8}"]
    for name, rows in (("train", dataset.train), ("dev", dataset.dev)):
        if rows:
            tokens = [row.student.n_tokens for row in rows]
            labels = [len(row.student.labels) for row in rows]
            lines.append(
                f"{name:<8}{len(rows):>7}  {_spread(tokens):>26}  {_spread(labels):>26}  {sum(labels):>8}"
            )
    n_teacher = sum(row.teacher is not None for row in dataset.train)
    lines.append(f"{n_teacher} rows with a teacher view; {n_steps} optimiser steps")
    return lines


def _spread(numbers: Sequence[int]) -> str:
    return f"{min(numbers)} / {statistics.median(numbers):g} / {max(numbers)}"
