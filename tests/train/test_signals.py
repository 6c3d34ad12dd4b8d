"""Teacher signals are computed once per row, and never trusted when damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agentkd import hf
from agentkd.schema import Example, LoraSettings
from agentkd.train.body import Body
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.packing import make_packs
from agentkd.train.rows import Row, load_dataset
from agentkd.train.signals import TeacherSignals


@pytest.fixture
def rows(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> tuple[Row, ...]:
    examples = [make_example(number, teacher=number != 2) for number in range(5)]
    return load_dataset(write_dataset(examples), 100).train


@pytest.fixture
def body(base: Path, rows: tuple[Row, ...]) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    adapted = add_adapter(model, LoraSettings(r=4, alpha=8), init_adapter="", seed=0)
    for name, parameter in adapter_parameters(adapted):
        if ".lora_B." in name:
            parameter.data += 0.5  # a student far from its base
    body = Body(adapted)
    body.pack_for_training([row.student for row in rows])
    return body


def prepared(
    root: Path, rows: tuple[Row, ...], body: Body, *, template: str = "t", top_k: int = 6
) -> tuple[TeacherSignals, int]:
    signals = TeacherSignals(root, base_id="base-tiny", template_hash=template, top_k=top_k)
    n = signals.prepare(
        rows, body, pack=lambda views: make_packs(views, 64), chunk_tokens=5, on_rows=lambda n: None
    )
    return signals, n


def test_signals_are_the_base_models_own_distribution(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, base: Path
) -> None:
    signals, _ = prepared(tmp_path, rows, body)
    (pack,) = make_packs([row.student for row in rows], 1000)
    found = signals.of_pack(pack, rows, torch.device("cpu"))
    plain = hf.load_model(base, dtype="float32", device="cpu")
    for label, (number, place) in enumerate(pack.labels):
        teacher = rows[number].teacher
        assert bool(found.has_teacher[label]) == (teacher is not None)
        if teacher is not None:
            with torch.inference_mode():
                logits = plain(input_ids=torch.tensor([teacher.ids[:-1]])).logits[0]
            wanted = logits[teacher.labels[place] - 1].log_softmax(-1).topk(6)
            assert found.top_ids[label].tolist() == wanted.indices.tolist()
            torch.testing.assert_close(found.log_probs[label], wanted.values, rtol=2e-3, atol=2e-3)


def test_a_second_run_and_another_dataset_reuse_rows(
    tmp_path: Path, rows: tuple[Row, ...], body: Body
) -> None:
    assert prepared(tmp_path, rows[:3], body)[1] == 2  # one of the three has no teacher
    assert prepared(tmp_path, rows[:3], body)[1] == 0
    assert prepared(tmp_path, rows, body)[1] == 2


def test_another_template_or_top_k_shares_nothing(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    assert prepared(tmp_path, rows, body, template="other")[1] == 4
    assert prepared(tmp_path, rows, body, top_k=3)[1] == 4


def test_flipped_bits_are_noticed_and_mended(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    assert prepared(tmp_path, rows, body)[1] == 4
    assert prepared(tmp_path, rows, body)[1] == 0
    assert shard.is_file()


def test_a_truncated_shard_is_computed_again(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    assert prepared(tmp_path, rows, body)[1] == 4
