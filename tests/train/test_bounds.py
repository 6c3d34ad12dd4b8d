"""Settings that nothing can be trained with are refused; what was trained before stays readable."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from agentkd.errors import ConfigError
from agentkd.schema import Checkpoint, LoraSettings, TrainJob, TrainSettings
from agentkd.train.plan import plan
from agentkd.train.reporter import Reporter

MakeJob = Callable[..., TrainJob]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("epochs", 0.0), ("epochs", -1.0), ("epochs", math.inf), ("tokens_per_step", 0),
        ("max_tokens_per_row", 1), ("loss_rows_logged", 0), ("chunk_tokens", 0), ("learning_rate", 0.0),
        ("learning_rate", math.nan), ("warmup_share", 2.0), ("warmup_share", -0.1), ("weight_decay", -1.0),
        ("max_grad_norm", 0.0), ("save_every_seconds", -1.0), ("max_memory", 0.0),
    ],
)  # fmt: skip
def test_a_training_has_bounds(field: str, wrong: float) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainSettings.model_validate({field: wrong})


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("r", 0), ("r", 5000), ("alpha", 0), ("dropout", 1.0), ("dropout", 1.5), ("target_modules", ())],
)
def test_an_adapter_has_bounds(field: str, wrong: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        LoraSettings.model_validate({field: wrong})


def test_a_checkpoint_from_before_the_bounds_is_read_as_it_was_trained() -> None:
    checkpoint = Checkpoint(name="student@1", base="b", base_id="i", dataset_id="d")
    stored = json.loads(checkpoint.model_dump_json())
    stored["settings"] |= {"epochs": -1.0, "warmup_share": 2.0}
    stored["settings"]["lora"]["alpha"] = 0
    found = Checkpoint.model_validate_json(json.dumps(stored))
    assert (found.settings.epochs, found.settings.lora.alpha, found.settings.lora.r) == (-1.0, 0, 16)
    assert json.loads(found.model_dump_json()) == stored
    stored["settings"]["nonsense"] = 1
    with pytest.raises(ValidationError, match="nonsense"):
        Checkpoint.model_validate(stored)


def test_modules_that_the_base_lacks_are_named(make_job: MakeJob) -> None:
    job = make_job(lora=LoraSettings(target_modules=("nowhere",)))
    with pytest.raises(ConfigError, match="nowhere"):
        plan(job, Reporter(is_machine=False))
