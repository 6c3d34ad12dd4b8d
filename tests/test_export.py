"""A student leaves the workspace only in files that were read back and answered like it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentkd import hf
from agentkd.errors import CheckpointError
from agentkd.schema import Rendered

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny random base and an adapter on all its projections, as peft saves one."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("student")
    base = hf.tiny_model(folder / "base")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"])
    model = get_peft_model(hf.load_model(base, "float32", "cpu"), config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder / "adapter"), safe_serialization=True)
    return Path(base), folder / "adapter"


def rows(n: int = 8) -> list[Rendered]:
    return [
        Rendered(ids=tuple(5 + (i * 7 + t * 11) % 200 for t in range(20)), weights=(0.0,) * 8 + (1.0,) * 12)
        for i in range(n)
    ]


@pytest.mark.parametrize("shape", hf.EXPORTS)
def test_an_export_answers_like_the_student(student: tuple[Path, Path], tmp_path: Path, shape: Any) -> None:
    parity = hf.export_student(shape, *student, tmp_path / "out", rows())
    assert parity.agreement == 1.0
    assert parity.largest < 1e-3
    assert parity.n_tokens == 8 * 12
    assert (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing is left aside


def test_a_merged_model_is_loaded_as_any_other(student: tuple[Path, Path], tmp_path: Path) -> None:
    hf.export_student("merged", *student, tmp_path / "out", rows())
    assert hf.load_tokenizer(tmp_path / "out").eos_token == hf.load_tokenizer(student[0]).eos_token
    assert not list((tmp_path / "out").glob("adapter*"))


def test_the_names_in_a_gguf_adapter_are_those_of_llama_cpp(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    hf.export_student("gguf-adapter", *student, tmp_path / "out.gguf", rows())
    reader = gguf.GGUFReader(str(tmp_path / "out.gguf"))
    names = {tensor.name for tensor in reader.tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.0.attn_k.weight.lora_b", "blk.0.ffn_up.weight.lora_a"} <= names
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("adapter.lora.alpha").contents() == 8.0


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(
    student: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="answers otherwise than the student"):
        hf.export_student("merged", *student, tmp_path / "out", rows(64), dtype="bfloat16")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_never_overwritten(student: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="exists already"):
        hf.export_student("merged", *student, tmp_path, rows())


def test_a_damaged_adapter_is_refused(student: tuple[Path, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in student[1].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"cannot be read|adapter_model"):
        hf.export_student("peft", student[0], broken, tmp_path / "out", rows())
