"""Fixtures: a tiny random model, rows over its vocabulary, and jobs on them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentkd import hf
from agentkd.schema import (
    AnchorSettings,
    DatasetCard,
    Example,
    LoraSettings,
    Message,
    Rendered,
    TrainJob,
    TrainSettings,
)
from agentkd.train.rows import View

MakeJob = Callable[..., TrainJob]


def rendered(prompt: list[int], target: list[int]) -> Rendered:
    return Rendered(ids=(*prompt, *target), weights=(0.0,) * len(prompt) + (1.0,) * len(target))


def example(number: int, *, teacher: bool = False, weight: float = 1.0) -> Example:
    """A row whose target follows from its prompt; all rows share a head of six tokens."""
    source = random.Random(number)
    prompt = [1, 5, 6, 7, 8, 9, *(source.randrange(20, 200) for _ in range(source.randrange(4, 16)))]
    target = [prompt[-1] + 1, prompt[-2] + 1, 300, 2]
    return Example(
        id=f"ex-{number}",
        kind="internalise",
        task_id=f"task-{number}",
        student_view=(Message(role="user", content="x"),),
        target=Message(role="assistant", content="y"),
        student=rendered(prompt, target),
        teacher=rendered([1, 11, 12, 13, *prompt], target) if teacher else None,
        weight=weight,
    )


def view(ids: list[int], n_labels: int) -> View:
    labels = tuple(range(len(ids) - n_labels, len(ids)))
    return View(tuple(ids), labels, (1.0,) * n_labels)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    def write(examples: list[Example], dev: list[Example] | None = None, name: str = "dataset") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, rows in (("train", examples), ("dev", dev or [])):
            (folder / f"{split}.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        card = DatasetCard(
            id=f"ds-{name}-{len(examples)}",
            n_train=len(examples),
            n_dev=len(dev or []),
            n_label_tokens=4 * len(examples),
            n_tokens=sum(len(row.student.ids) for row in examples),
            template_hash="t",
        )
        (folder / "card.json").write_text(card.model_dump_json())
        return folder

    return write


@pytest.fixture
def make_job(tmp_path: Path, base: Path, write_dataset: Callable[..., Path]) -> MakeJob:
    def make(output: str = "out", dataset: Path | None = None, **fields: Any) -> TrainJob:
        if dataset is None:
            dataset = tmp_path / "dataset"
            if not dataset.exists():
                rows = [example(number) for number in range(24)]
                write_dataset(rows, [example(number) for number in range(24, 28)])
        job_fields = {key: fields.pop(key) for key in ("plugins", "init_adapter", "signals") if key in fields}
        settings = TrainSettings(
            **{
                "dtype": "float32",
                "device": "cpu",
                "tokens_per_step": 96,
                "epochs": 2.0,
                "learning_rate": 5e-3,
                "lora": LoraSettings(r=4, alpha=8),
                "anchor": AnchorSettings(weight=0),  # test_anchor.py has them
                **fields,
            }
        )
        return TrainJob(
            dataset=str(dataset), base=str(base), base_id="base-tiny", output=str(tmp_path / output),
            settings=settings, **job_fields,
        )  # fmt: skip

    return make


@pytest.fixture
def make_example() -> Callable[..., Example]:
    return example


@pytest.fixture
def make_view() -> Callable[[list[int], int], View]:
    return view
