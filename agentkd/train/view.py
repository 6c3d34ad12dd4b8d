"""What a teacher sees of each row, and where the student's labels lie in the text. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkd import hf
from agentkd.errors import AgentkdError
from agentkd.schema import Example
from agentkd.train.alignment import Stretch, TokenBytes, label_bytes
from agentkd.train.rows import Dataset, View

__all__ = ["foreign_view", "read_examples", "student_stretches", "with_own_views"]


def with_own_views(dataset: Dataset) -> Dataset:
    """Let the teacher see the student's view where a row has none for it."""
    rows = (replace(row, teacher=row.teacher or row.student) if row.student.labels else row
            for row in dataset.train)  # fmt: skip
    return replace(dataset, train=tuple(rows))


def foreign_view(tokenizer: Any, example: Example) -> tuple[View, tuple[int, ...]] | None:
    """Return an example as another tokenizer writes it, and the byte after each label; None if it cannot."""
    try:
        rendered = hf.render_example(tokenizer, example.teacher_view or example.student_view, example.target)
    except AgentkdError:
        return None
    labels = tuple(t for t, weight in enumerate(rendered.weights) if weight)
    text = hf.as_text(example.target).encode()
    found = label_bytes(rendered.ids, labels, text, TokenBytes.of(tokenizer), hf.end_ids(tokenizer))
    if not found:
        return None
    return View(rendered.ids, labels, (1.0,) * len(labels)), tuple(end for _, end in found)


def student_stretches(
    base: str | Path, folder: str | Path, dataset: Dataset
) -> dict[str, tuple[Stretch, ...]]:
    """Return the bytes of each student label by row id; rows whose tokens do not spell their target miss."""
    tokenizer = hf.load_tokenizer(base)
    token_bytes, ends = TokenBytes.of(tokenizer), hf.end_ids(tokenizer)
    views = {row.id: row.student for row in dataset.train if row.student.labels}
    found = {}
    for example in read_examples(folder):
        view = views.get(example.id)
        if view is not None:
            text = hf.as_text(example.target).encode()
            stretches = label_bytes(view.ids, view.labels, text, token_bytes, ends)
            if stretches:
                found[example.id] = stretches
    return found


def read_examples(folder: str | Path) -> Iterator[Example]:
    """Yield the train rows of a dataset folder with their messages; `load_dataset` has checked them."""
    with (Path(folder) / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield Example.model_validate_json(line)
